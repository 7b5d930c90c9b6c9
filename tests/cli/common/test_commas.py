"""Values of lists that are separated by spaces: every option that takes some separated by commas says so."""

from pathlib import Path

import pytest

from ccpml.cli import main
from ccpml.cli.common.commas import check_commas, is_free_text

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
