"""Every method with every loss of the table, from training to report and table row, through the command line."""

import re
from html import unescape
from pathlib import Path

import pytest

from ccpml.benchmark.outputs import write_outputs
from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.results import collect_results
from ccpml.benchmark.rows import table_rows
from ccpml.cli import main
from ccpml.losses import LOSSES, METHODS
from ccpml.report import covers, gallery
from ccpml.report.ablation import draw_table
from ccpml.report.style import Picture
from ccpml.runs.directory import RunDirectory
from tests.toy import QUICK, quick_settings, toy_folder

FACT = r'<th scope="row">(.*?)</th><td>(.*?)</td>'
STEPS = {"max_steps": 3, "validate_every": 1, "memory_start": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{toy_folder(tmp_path_factory.mktemp('toy'))}"


@pytest.fixture(autouse=True)
def _unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rendering of pictures, which takes most of the time and depends on no loss."""
    monkeypatch.setattr(Picture, "of", lambda figure, name, alt: Picture(name, alt, b"", 1, 1))
    for module in (covers, gallery):
        monkeypatch.setattr(module, "draw_rows", lambda rows, per_row: None)


@pytest.mark.parametrize(("loss", "method"), [(loss, method) for loss in LOSSES for method in LOSSES[loss].methods])
def test_train_report_table_and_resume(loss: str, method: str, data: str, tmp_path: Path) -> None:
    benchmark = Benchmark(
        quick_settings(data=data, **STEPS), table_rows([loss], [method]), tmp_path / "table", folds=(0,)
    )
    (cell,) = benchmark.cells()
    flags = [f"--{name}={value}" for name, value in {**QUICK, **STEPS, "fold": 0}.items()]
    assert main(["train", data, "--loss", loss, "--method", method, *flags, "--run", str(cell.path)]) == 0
    run = RunDirectory(cell.path)
    assert (run.settings().loss, run.settings().method) == (loss, method)
    check_report(run)

    results = collect_results(benchmark, progress=False)
    write_outputs(benchmark, results)
    draw_table(benchmark, results, benchmark.out)
    title = "-".join(filter(None, (LOSSES[loss].title, METHODS[method].title)))
    row = next(line for line in (benchmark.out / "table.md").read_text().splitlines() if line.startswith(f"| {title} "))
    assert row.rstrip(" |").endswith("1/1")

    scores = run.scores()
    run.report_file.unlink()
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.scores() == scores
    run.scores_file.unlink()
    run.report_file.unlink()
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.scores() == scores
    check_report(run)


def check_report(run: RunDirectory) -> None:
    """Check that a report describes the loss and the method of a run, and no other method."""
    html = run.report_file.read_text(encoding="utf-8")
    facts = {name: unescape(text) for name, text in re.findall(FACT, html.partition("All settings")[0])}
    settings = run.settings()
    entry = LOSSES[settings.loss]
    parameters = [f"{name} {settings.loss_parameters[name]:g}" for name in entry.parameters]
    assert facts["loss"] == ", ".join([entry.description, *parameters])
    described = entry.describe_method(settings.method)
    assert facts["method"].startswith(described)
    assert f"{entry.description} loss, {described}." in unescape(html)
    others = {LOSSES[loss].describe_method(method) for loss in LOSSES for method in LOSSES[loss].methods} - {described}
    assert not [other for other in others if other in unescape(html)]
    assert ("problem instance" in html) == ("covering radius of its proxies" in html) == (settings.method == "ccp")
