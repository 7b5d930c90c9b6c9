"""Exit codes, errors and imports of the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from ccpml.cli import VERBS, main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "verb: expected one of train, evaluate, "),
        (["trian", "glyphs"], "got trian; did you mean train?"),
        (["data", "cache", "glyphs", "--sid", "3"], "unrecognized arguments: --sid 3; did you mean --side?"),
        (["data", "fetch", "cub", "--data-root", "/dev/null"], "cub: /dev/null: expected a folder, got a device"),
        (["data", "cache", "glyphs"], "glyphs: comes with ccpml, so that there is nothing to cache"),
        (["train", "glyphs", "--weights", __file__], "weights: expected a .safetensors, .pth or .pt file, got"),
        (["train", "photos"], "unknown data 'photos': expected groceries, glyphs, cub, cars196"),
        (["train", "/tmp"], "unknown data '/tmp': expected groceries, glyphs"),
        (["train", "/tmp"], "; did you mean folder:/tmp?"),
        (["benchmark", "/tmp"], "; did you mean folder:/tmp?"),
        (["evaluate", "/no/such", "/tmp"], "/no/such: not a run directory"),
        (["train", "glyphs", "--lr=nan"], "lr: expected a finite number > 0, got nan"),
        (["train", "folder:/no/such"], "folder:/no/such: folder not found"),
        (["train", "csv:/no/such.csv"], "csv:/no/such.csv: file not found"),
        (["train", "glyphs", "--lr", "-1"], "lr: expected a finite number > 0, got -1.0"),
        (["train", "glyphs", "--device", "quantum"], "device: expected auto, cpu, cuda"),
        (["train", "glyphs", "--weights", "/no/such.pth"], "weights: expected a file, imagenet or none, got '/no/such"),
        (["train", "--resume", "/no/such"], "/no/such: not a run directory"),
        (["train", "glyphs", "--resume", "/no/such"], "--resume: expected no data and no other options"),
        (["train", "--lr=1", "--resume", "/no/such"], "--resume: expected no data and no other options"),
        (["evaluate"], "run: expected a value, got none; see ccpml evaluate --help"),
        (["evaluate", "/no/such"], "/no/such: not a run directory"),
        (["evaluate", "/no/such", "--cluster", "glyphs"], "did you mean --clusters?"),
        (["search", "/no/such", "glyphs", "--k", "1"], "did you mean -k?"),
        (["embed", "/no/such", "glyphs"], "-o/--output"),
        (["embed", "/no/such", "glyphs", "--out", "x.npz"], "unrecognized arguments: --out; see"),
        (
            ["embed", "/no/such", "glyphs", "-o", "x.csv"],
            "--output: expected a file that ends in .npz or .parquet, got",
        ),
        (["report"], "run"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ccpml: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("root", "name"), [(["--data-root", "/no/such"], "--data-root"), ([], "CCPML_DATA")])
def test_the_folder_of_the_benchmarks_must_exist(
    root: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CCPML_DATA", "/no/such")
    assert main(["train", "cub", *root]) == 2
    assert f"{name}: folder /no/such not found" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate {run} cub",
        "evaluate {run}",
        "embed {run} cub -o x.npz",
        "calibrate {run} sop",
        "compare {run} {run}/other --data cub",
        "clean {run} cub",
        "clean {run} glyphs --pool inshop",
        "index {run} cars196 -o x.index",
        "search {index} cub",
    ],
)
def test_a_missing_folder_of_benchmarks_is_wrong_usage_of_every_verb(
    arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("run/experiment.yaml", "run/other/experiment.yaml", "index/index.sqlite"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    words = arguments.format(run=tmp_path / "run", index=tmp_path / "index").split()
    assert main([*words, "--data-root", "/no/such"]) == 2
    assert "--data-root: folder /no/such not found" in capsys.readouterr().err


def test_a_failure_is_exit_code_1_and_has_a_traceback_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["train", f"folder:{tmp_path / 'empty'}", "--run", str(tmp_path / "run")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "empty") in error
    assert "Traceback" not in error
    with pytest.raises(ValueError, match="empty"):
        main([*arguments, "--debug"])


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccpml.cli.report.run", interrupted)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "ccpml: interrupted\n"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert "ccpml 0." in capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in help_text
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: ccpml {verb} ")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import ccpml; ccpml.CCPLoss, ccpml.evaluate", {"lightning", "matplotlib", "PIL", "pytorch_metric_learning"}),
        ("import ccpml.cli; ccpml.cli.main(['--help'])", {"torch", "jsonargparse", "numpy"}),
        *(
            (f"from ccpml.cli.{verb} import parse; parse({arguments})", {"torch", "numpy", "optuna", "matplotlib"})
            for verb, arguments in {
                "train": ["glyphs"],
                "benchmark": ["glyphs"],
                "tune": ["glyphs", "--search=lr=1..2"],
                "evaluate": ["run"],
                "data": ["check", "glyphs"],
            }.items()
        ),
        ("import ccpml.data, ccpml.models", {"lightning", "matplotlib", "timm"}),
    ],
)
def test_imports_are_lazy(code: str, forbidden: set[str]) -> None:
    program = f"import sys; {code}; print(sorted({forbidden!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
