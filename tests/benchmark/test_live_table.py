import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ccpml.benchmark.live_table import LiveTable
from ccpml.runs.directory import RunDirectory


def test_lines_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, float] | None] = [None, {"step": 1000.0, "map_at_r": 0.25}]
    monkeypatch.setattr(RunDirectory, "last_metrics", lambda _: rows.pop(0))
    cell = SimpleNamespace(
        path=Path("cell"), settings=SimpleNamespace(max_steps=2000), title="C2-CCP, repeat 0, fold 0"
    )
    running = SimpleNamespace(cell=cell, device="cpu", started=time.monotonic())
    progress: Any = SimpleNamespace(
        finished=[], failed=[], elsewhere=[], running=[running], total=8, seconds_left=lambda: None
    )
    for _ in range(2):
        table: Any = LiveTable(SimpleNamespace())  # type: ignore[arg-type]
        table.show(progress)
    assert capsys.readouterr().err == (
        "0 of 8 cells finished\n  C2-CCP, repeat 0, fold 0 on cpu: starting 2,000 steps, 00:00\n"
        "0 of 8 cells finished\n  C2-CCP, repeat 0, fold 0 on cpu: step 1,000 of 2,000, validation MAP@R 25.00, 00:00\n"
    )
