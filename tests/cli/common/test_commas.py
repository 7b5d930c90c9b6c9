"""Several values of one option: each option says how they are written, or that it takes one."""

from pathlib import Path

import pytest

from ccpml.cli import main
from ccpml.cli.common.commas import check_commas, check_single, is_free_text, is_number_only
from ccpml.cli.common.models import is_model

LISTS = [
    ("calibrate run --precision 0.8 0.9", "--precision 0.8,0.9"),
    ("calibrate run glyphs --precision=0.8 0.9 0.95", "--precision 0.8,0.9,0.95"),
    ("calibrate run --precisions 0.8, 0.9", "--precisions 0.8,0.9"),
    ("calibrate --precision 0.8 0.9 run", "--precision 0.8,0.9"),
    ("evaluate run --rerank k-reciprocal augmentation glyphs", "--rerank k-reciprocal,augmentation"),
    ("evaluate run glyphs --dtype float16 int8", "--dtype float16,int8"),
    ("benchmark glyphs --methods plain ccp", "--methods plain,ccp"),
    ("benchmark --methods plain, ccp, xbm glyphs", "--methods plain,ccp,xbm"),
    ("benchmark glyphs --losses c2 MS triplet", "--losses c2,MS,triplet"),
    ("benchmark glyphs --devices cuda:0 cuda:1", "--devices cuda:0,cuda:1"),
    ("benchmark glyphs --ablation pooling=avg max", "--ablation pooling=avg,max"),
    ("benchmark glyphs --variant small:lr=0.1 epochs=3", "--variant small:lr=0.1,epochs=3"),
    ("tune glyphs --search lr=0.1 0.2", "--search lr=0.1,0.2"),
    ("train glyphs --logger csv wandb", "--logger csv,wandb"),
    ("train --logger csv wandb glyphs", "--logger csv,wandb"),
    ("train glyphs --test-classes Korean/* Greek/*", "--test-classes 'Korean/*,Greek/*'"),
    ("tune --test_classes Korean/* Greek/* glyphs", "--test_classes 'Korean/*,Greek/*'"),
]


@pytest.mark.parametrize(("line", "written"), LISTS)
def test_spaces_in_place_of_commas_are_named(line: str, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    flag = written.partition(" ")[0]
    expected = f"{flag}: expected values separated by commas, got spaces; write {written}"
    assert capsys.readouterr().err == f"ccpml: error: {expected}\n"


def test_every_option_whose_help_speaks_of_several_values_is_covered(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {written.partition(" ")[0] for _, written in LISTS}
    found = set()
    for verb in ("train", "evaluate", "calibrate", "benchmark", "tune", "clean", "index", "search", "serve"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        text, flag = capsys.readouterr().out.partition("\noptions:")[2], ""
        for line in text.splitlines():
            flag = next((word.strip(",") for word in line.split() if line.startswith("  --") and "--" in word), flag)
            if any(words in line for words in ("comma", "some of", "VALUE,VALUE", "cuda:0,cuda:1", "0.9,0.95")):
                found.add(flag)
    expected = "precision rerank dtype methods losses devices ablation search logger test-classes"
    assert found == {f"--{name}" for name in expected.split()}
    assert found <= flags


def test_the_next_argument_is_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for word in ("glyphs", "folder:photos", "photos", "--lr"):
        check_commas(["--test-classes", "Korean/*", word], {"--test-classes": is_free_text})
    check_commas(["--test-classes", "Korean/*,Greek/*"], {"--test-classes": is_free_text})
    check_commas(["--test-classes"], {"--test-classes": is_free_text})


@pytest.fixture
def run_and_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command lines below name, as far as it is looked at before the error."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "photos", "idx"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "experiment.yaml").touch()
    (tmp_path / "7").touch()


@pytest.mark.usefixtures("run_and_index")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search idx --id 3 4", "--id: expected one value, got 3 4; write --id 3 --id 4"),
        ("search --id=3 4 5 idx", "--id: expected one value, got 3 4 5; write --id 3 --id 4 --id 5"),
        ("search idx --id 3,4", "--id: expected one value, got 3,4; write --id 3 --id 4"),
        ("search idx -k 3 5 x.png", "-k: expected one value, got 3 5"),
        ("search idx --id 3 --rerank augmentation k-reciprocal", "--rerank: expected one value, got augmentation k-re"),
        ("evaluate a --ensemble b a", "--ensemble: expected one value, got b a; write --ensemble b --ensemble a"),
        ("evaluate a --ensemble b,a", "--ensemble: expected one value, got b,a; write --ensemble b --ensemble a"),
        (
            "index a photos -o i --ensemble b a",
            "--ensemble: expected one value, got b a; write --ensemble b --ensemble",
        ),
        (
            "index a --ensemble b a photos -o i",
            "--ensemble: expected one value, got b a; write --ensemble b --ensemble",
        ),
        (
            "serve idx --allow-host a b",
            "--allow-host: expected one value, got a b; write --allow-host a --allow-host b",
        ),
        ("serve idx --allow-host a,b", "--allow-host: expected one name, got a,b; write --allow-host a --allow-host b"),
        ("embed a photos -o x.npz y.npz", "-o: expected one value, got x.npz y.npz"),
        ("export a --format onnx pt2", "--format: expected one value, got onnx pt2"),
        ("calibrate a photos --answers 1 2", "--answers: expected one value, got 1 2"),
        ("train folder:photos --lr 0.1 0.2", "--lr: expected one value, got 0.1 0.2"),
        ("train --seed 1 2 folder:photos", "--seed: expected one value, got 1 2"),
        (
            "tune glyphs --search lr=1..2 seed=3..4",
            "--search: expected one value, got lr=1..2 seed=3..4; write --search ",
        ),
        (
            "benchmark glyphs --variant x:lr=1 y:lr=2",
            "--variant: expected one value, got x:lr=1 y:lr=2; write --variant",
        ),
        ("evaluate a photos idx", "expected run and data, got idx too; see ccpml evaluate --help"),
        ("data check photos idx", "expected a command and its data, got idx too; see ccpml data --help"),
        ("index a @ -o i", "arguments: expected a value, got nothing"),
        ("search @", "arguments: expected a value, got nothing"),
        ("evaluate a -o @", "-o: expected a value, got nothing"),
        ("evaluate a --output=", "--output: expected a value, got nothing"),
        ("evaluate a photos --all-classes=0", "--all-classes: expected no value, got '0'"),
        ("data", "command: expected one of check, fetch, cache, got none"),
        ("train glyphs --max-steps 1:30", "max_steps: expected int or null, got '1:30'"),
        ("train glyphs --max-steps 0x10", "max_steps: expected int or null, got '0x10'"),
        ("report a b", "expected run, got b too; see ccpml report --help"),
    ],
)
def test_several_values_of_an_option_that_takes_one_are_named(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["" if word == "@" else word for word in line.split()]) == 2
    assert capsys.readouterr().err.startswith(f"ccpml: error: {message}")


@pytest.mark.usefixtures("run_and_index")
def test_what_follows_a_value_may_be_an_argument_of_its_own() -> None:
    for words, options in [
        (["idx", "--id", "3", "7"], {"--id": is_number_only}),  # a file of this name
        (["a", "--ensemble", "b", "photos"], {"--ensemble": is_model}),
        (["idx", "--", "--id", "3", "4"], {"--id": is_number_only}),
        (["idx", "--id"], {"--id": is_number_only}),
    ]:
        check_single(words, options)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "train glyphs --test-classes Korean/* --test-classes Greek/*",
            "--test-classes: given twice; write --test",
        ),
        ("train glyphs --test_classes=a --test_classes=b", "--test_classes: given twice; write --test_classes a,b"),
        ("train glyphs --logger csv --logger=mlflow", "--logger: given twice; write --logger csv,mlflow"),
        ("benchmark glyphs --losses c2 --losses ms", "--losses: given twice; write --losses c2,ms"),
        ("benchmark glyphs --methods plain --methods=ccp", "--methods: given twice; write --methods plain,ccp"),
        ("calibrate run --precision 0.8 --precision 0.9", "--precision: given twice; write --precision 0.8,0.9"),
        ("evaluate run --dtype int8 --dtype float16", "--dtype: given twice; write --dtype int8,float16"),
    ],
)
def test_a_list_that_is_given_twice_is_named(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert sentence in capsys.readouterr().err
