"""The live table of a benchmark: redrawn on a terminal, an occasional line in a log."""

import statistics
import sys
import time
from contextlib import nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text
from tqdm import tqdm

from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.runner import Progress
from ccpml.numbers import counted
from ccpml.runs.directory import RunDirectory

_SECONDS_BETWEEN_LINES = 30.0


class LiveTable:
    """Progress of a benchmark: each of its rows, the cells in training, and the time left; shown within ``live``."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        terminal = sys.stderr.isatty()
        self.live = Live(console=Console(stderr=True), auto_refresh=False) if terminal else nullcontext()
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._ended = -1
        self._scores: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        """Show the current progress."""
        if isinstance(self.live, Live):
            shown = Group(self._table(progress), *self._running(progress), self._summary(progress))
            self.live.update(shown, refresh=True)
            return
        ended = len(progress.finished) + len(progress.failed)
        if ended != self._ended or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line, self._ended = time.monotonic(), ended
            lines = [str(line) for line in (self._summary(progress), *self._running(progress))]
            print("\n  ".join(lines), file=sys.stderr, flush=True)

    def _table(self, progress: Progress) -> Table:
        numbers = (Column(name, justify="right") for name in ("cells", "validation MAP@R", "failed"))
        table = Table("", *numbers, box=None, pad_edge=False)
        per_row = self.benchmark.repeats * len(self.benchmark.folds)
        for row in self.benchmark.rows:
            finished = [cell for cell in progress.finished if cell.row.name == row.name]
            for cell in finished:
                if str(cell.path) not in self._scores:
                    self._scores[str(cell.path)] = RunDirectory(cell.path).scores()["validation"]["map_at_r"]
            scores = [self._scores[str(cell.path)] for cell in finished]
            failed = sum(title.startswith(f"{row.title}, ") for title in progress.failed)
            mean = f"{100 * statistics.mean(scores):.2f}" if scores else ""
            table.add_row(row.title, f"{len(finished)}/{per_row}", mean, str(failed) if failed else "")
        return table

    def _running(self, progress: Progress) -> list[Text]:
        lines = []
        for running in progress.running:
            row, max_steps = RunDirectory(running.cell.path).last_metrics(), running.cell.settings.max_steps
            step = f"step {row['step']:,.0f} of {max_steps:,}, " if row else f"starting {counted(max_steps, 'step')}, "
            score = f"validation MAP@R {100 * row['map_at_r']:.2f}, " if row else ""
            spent = tqdm.format_interval(time.monotonic() - running.started)
            lines.append(Text(f"{running.cell.title} on {running.device}: {step}{score}{spent}"))
        return lines

    def _summary(self, progress: Progress) -> Text:
        left = progress.seconds_left()
        failed = f", {len(progress.failed)} failed" if progress.failed else ""
        elsewhere = f", {len(progress.elsewhere)} trained by another process" if progress.elsewhere else ""
        time_left = f", {tqdm.format_interval(left)} left" if left is not None and progress.running else ""
        return Text(f"{len(progress.finished)} of {progress.total} cells finished{failed}{elsewhere}{time_left}")
