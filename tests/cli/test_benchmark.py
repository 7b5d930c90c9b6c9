import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from ccpml.cli import main
from ccpml.cli.benchmark import parse
from ccpml.files import load_yaml
from tests.cli.conftest import FLAGS

pytestmark = pytest.mark.usefixtures("preloaded")

Capture = pytest.CaptureFixture[str]


def table(folder: Path, out: Path, *options: str) -> list[str]:
    losses = [] if "--losses" in options else ["--losses", "c2"]
    own = [*losses, "--max-steps", "2", "--at-once", "2", "--out", str(out)]
    return ["benchmark", f"folder:{folder}", *FLAGS, *own, *options]


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished table of one row, two folds."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    assert main(table(folder, out, "--methods", "ccp")) == 0
    return out


def test_a_table_and_a_longer_one(finished: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """Finished cells are not trained again when a repeat is added; the table gains error bars."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert "±" not in (out / "table.md").read_text().partition("|")[2]
    times = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("scores.json")}
    assert len(times) == 2
    assert main(table(folder, out, "--methods", "ccp", "--repeats", "2")) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    text = (out / "table.md").read_text()
    assert "C2-CCP" in text
    assert "±" in text
    assert text in capsys.readouterr().out
    for name in ("table.csv", "table.tex", "table.json"):
        assert (out / name).stat().st_size
    assert list(out.glob("*.png"))


def test_rows_that_are_not_in_the_table_are_noted(
    finished: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.copytree(out / "cells" / "contrastive-ccp", out / "cells" / "triplet-ccp")
    assert main(table(folder, out, "--methods", "ccp")) == 0
    note = "finished runs that are not in this table: triplet-ccp; name all rows to add them"
    assert f"note: {out}: {note}" in capsys.readouterr().err
    shutil.rmtree(out / "cells" / "triplet-ccp")
    for cell in (out / "cells" / "contrastive-ccp").glob("repeat0-fold*/"):
        shutil.copytree(cell, cell.with_name(cell.name.replace("repeat0", "repeat1")))
    assert main(table(folder, out, "--methods", "ccp")) == 0
    note = f"note: {out}: the table has 1 repeat, and finished runs are there of 2; --repeats 2 adds them"
    assert note in capsys.readouterr().err
    for cell in (out / "cells" / "contrastive-ccp").glob("repeat1-fold*/"):
        shutil.rmtree(cell)
    assert main(table(folder, out, "--methods", "ccp")) == 0
    error = capsys.readouterr().err
    assert "not in this table" not in error
    assert "finished runs" not in error


@pytest.mark.parametrize("file", ["table.md", "timings.json", "table.png"])
def test_a_full_disk_after_the_last_cell_says_how_to_resume(
    finished: Path, folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / file).unlink()
    replace, command = os.replace, table(folder, out, "--methods", "ccp")

    def full(source: Path, target: Path) -> None:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    capsys.readouterr()
    assert main(command) == 1
    reason = f"{out / file}: cannot be written (No space left on device); free some space"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"ccpml: error: {reason}; then resume with: {shlex.join(['ccpml', *command])}"


def test_damaged_cells_are_trained_again(finished: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = (out / "table.json").read_text()
    first, second = sorted((out / "cells").rglob("scores.json"))
    embeddings = second.parent / "embeddings" / "test.npz"
    first.write_text("damaged")
    embeddings.unlink()
    assert main(table(folder, out, "--methods", "ccp")) == 0
    assert (out / "table.json").read_text() == before
    embeddings.write_bytes(b"damaged")
    capsys.readouterr()
    assert main(table(folder, out, "--methods", "ccp")) == 1
    assert f"missing: {embeddings}: damaged" in capsys.readouterr().err


def test_an_ablation(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(table(folder, out, "--losses", "ms", "--ablation", "projections.strength=0,1e-4")) == 0
    captured = capsys.readouterr()
    assert "MS-CCP (projections.strength=0.0001)" in captured.out
    note = "multi_similarity-ccp: all values have the same validation score, so that none is better; train longer"
    assert note in captured.err  # two steps, without a projection
    assert load_yaml(out / "best.yaml") == {}
    assert parse(table(folder, out, "--row-settings", str(out / "best.yaml"))[1:])[1].rows
    assert list(out.glob("*.png"))
    assert json.loads((out / "table.json").read_text())["ablation"] == "projections.strength"


def test_failed_cells_are_reported_at_the_end_and_do_not_stop_the_others(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    options = ["--protocol", "conventional", "--methods", "plain", "--variant", "large:classes_per_batch=99"]
    out = tmp_path / "out"
    assert main(table(folder, out, *options)) == 1
    captured = capsys.readouterr()
    assert "failed: C2-CCP (large), repeat 0, fold 0: " in captured.err
    assert "99" in captured.err
    assert "C2" in captured.out
    (cell,) = (out / "cells").rglob("scores.json")
    assert {"test", "test_last"} <= json.loads(cell.read_text()).keys(), "conventional: the last step is scored too"


def test_options_take_precedence_over_the_protocol() -> None:
    _, benchmark = parse(["glyphs", "--protocol=conventional", "--embedding-dim", "64"])
    assert (benchmark.base.embedding_dim, benchmark.base.pooling, benchmark.folds) == (64, "avg+max", (0,))
    _, benchmark = parse(["glyphs", "--seed", "5", "--repeats", "2", "--folds", "3"])
    assert ({cell.settings.seed for cell in benchmark.cells()}, benchmark.folds) == ({5, 6}, (0, 1, 2))
    assert str(benchmark.out) == "runs/benchmark/glyphs-mlrc"


def test_a_settings_file_may_name_the_protocol_but_nothing_that_cells_vary(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("protocol: conventional\nlr: 0.5\n")
    _, benchmark = parse(["glyphs", "--config", str(file)])
    assert benchmark.protocol == "conventional"
    assert (benchmark.base.embedding_dim, benchmark.base.score_last, benchmark.base.lr) == (512, True, 0.5)
    file.write_text("loss: contrastive\n")
    assert main(["benchmark", "glyphs", "--config", str(file)]) == 2
    assert "loss: not a setting; did you mean --losses?" in capsys.readouterr().err


def test_printed_settings_make_the_same_benchmark(tmp_path: Path, capsys: Capture) -> None:
    arguments = ["glyphs", "--protocol=conventional", "--losses=c1,triplet", "--margin", "0.3"]
    with pytest.raises(SystemExit):
        parse([*arguments, "--projections.strength=1", "--print-config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    _, again = parse([*arguments[:-2], "--config", str(tmp_path / "printed.yaml")])
    _, benchmark = parse([*arguments, "--projections.strength=1"])
    assert [cell.settings for cell in again.cells()] == [cell.settings for cell in benchmark.cells()]


def test_parameters_of_losses_apply_to_the_losses_that_take_them() -> None:
    _, benchmark = parse(["glyphs", "--losses", "c1,triplet,c2", "--margin", "0.3", "--methods", "plain"])
    margins = {cell.settings.loss: cell.settings.loss_parameters.get("margin") for cell in benchmark.cells()}
    assert margins == {"cosine_contrastive": 0.3, "triplet": 0.3, "contrastive": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--losses c9", "loss: expected one of contrastive (c2)"),
        ("--methods mine", "methods: expected some of ccp"),
        ("--protocol fair", "protocol: expected mlrc or conventional, got 'fair'"),
        ("--ablation color", "ablation: expected one of strength"),
        ("--ablation lr=fast", "lr: expected float or null, got 'fast'"),
        ("--variant x", "variant: expected name:setting=value"),
        ("--variant a:lr=1 --variant a:lr=2", "--variant: expected a different name for each, got one twice"),
        ("--fold 1", "did you mean --folds?"),
        ("--loss triplet", "did you mean --losses?"),
        ("--data photos", "unknown data 'photos'"),
        ("--devices ,", "--devices: expected one or more"),
        ("--devices cpu,gpu0", "--devices: expected some of auto, cpu, cuda, cuda:<number> and mps"),
        ("--devices cuda:77", "--devices: cuda:77 not available"),
        ("--losses c2,ms --margin 0.3", "margin: not a parameter of contrastive or multi_similarity"),
        ("--ablation strength --variant a:lr=1", "--variant: cannot be combined with --ablation"),
        ("--ablation strength --row-settings x", "--row-settings: cannot be combined with --ablation"),
        ("--row-settings /no/such.yaml", "--row-settings /no/such.yaml: cannot be read"),
        ("--ablation strength --methods plain", "has no effect with method plain"),
        ("--out=", "--out: expected a value, got nothing"),
        (f"--out {__file__}/x", f"{__file__}: expected a folder, got a file; choose another --out"),
        ("--repeats x", "repeats: expected int, got 'x'"),
        ("--repeats 0", "repeats: expected 1 to 1024, got 0"),
        ("--repeats 999999999", "repeats: expected 1 to 1024, got 999999999"),
        ("--at-once 0", "at_once: expected 1 to 1024, got 0"),
        ("--at-once 999999999", "at_once: expected 1 to 1024, got 999999999"),
    ],
)
def test_wrong_usage(
    options: str, message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *([] if "--data" in options else ["glyphs"]), *options.split()]) == 2
    error = capsys.readouterr().err.removeprefix("loading libraries ...\n")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("methods", "notes"),
    [
        ("plain,xbm", ["proxies_per_class: without effect in all rows"]),
        ("ccp", ["memory_batches: without effect with method ccp, only with xbm"]),
        ("ccp,xbm-s", []),
    ],
)
def test_settings_that_change_nothing_in_any_row_are_noted(methods: str, notes: list[str], capsys: Capture) -> None:
    parse(["glyphs", "--losses=c2", f"--methods={methods}", "--proxies-per-class=4", "--memory-batches=3", "--lr=0.1"])
    assert capsys.readouterr().err.splitlines() == [f"note: {note}" for note in notes]


def test_a_setting_that_is_given_beside_its_sweep_is_noted(capsys: Capture) -> None:
    parse(["glyphs", "--losses=c2", "--methods=ccp", "--ablation", "lr=1e-3,1e-2", "--lr=0.5", "--weight-decay=0.1"])
    assert capsys.readouterr().err.splitlines() == ["note: lr: without effect as it varies"]
    parse(["glyphs", "--losses=c2", "--methods=plain", "--variant", "low:method=plain,lr=1e-3", "--lr=0.5"])
    assert capsys.readouterr().err == ""  # the first row has it
