"""The live table of a benchmark: on a terminal it is redrawn, in a log it is a line now and then."""

import statistics
import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.runner import Progress
from ccpml.runs.directory import RunDirectory

__all__ = ["Board"]

_EVERY = 30.0


class Board:
    """Show how far a benchmark is: a row for each of its rows, the cells in training, and the time left.

    Args:
        benchmark: What is trained.

    Example:
        ```python
        with Board(benchmark) as board:
            run_cells(benchmark, ["cpu"], 1, board.show)
        ```
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None
        self._said = -_EVERY
        self._ended = -1
        self._scores: dict[str, float] = {}

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show it as it is now."""
        if self._live is not None:
            self._live.update(
                Group(self._table(progress), *self._running(progress), self._summary(progress)), refresh=True
            )
            return
        ended = len(progress.finished) + len(progress.failed)
        if ended != self._ended or time.monotonic() - self._said > _EVERY:
            self._said, self._ended = time.monotonic(), ended
            lines = [str(line) for line in (self._summary(progress), *self._running(progress))]
            print("\n  ".join(lines), file=sys.stderr, flush=True)

    def _table(self, progress: Progress) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in ("cells", "validation MAP@R", "failed"):
            table.add_column(name, justify="right")
        of_each = self.benchmark.repeats * len(self.benchmark.folds)
        for row in self.benchmark.rows:
            finished = [cell for cell in progress.finished if cell.row.name == row.name]
            for cell in finished:
                if str(cell.path) not in self._scores:
                    self._scores[str(cell.path)] = RunDirectory(cell.path).scores()["validation"]["map_at_r"]
            scores = [self._scores[str(cell.path)] for cell in finished]
            failed = sum(title.startswith(f"{row.title}, ") for title in progress.failed)
            mean = f"{100 * statistics.mean(scores):.2f}" if scores else ""
            table.add_row(row.title, f"{len(finished)}/{of_each}", mean, str(failed) if failed else "")
        return table

    def _running(self, progress: Progress) -> list[Text]:
        lines = []
        for running in progress.running:
            state = RunDirectory(running.cell.path).last_metrics()
            steps, seconds = state.get("step", 0), time.monotonic() - running.started
            how_far = f"step {steps:,.0f}, validation MAP@R {100 * state['map_at_r']:.2f}" if state else "starting"
            most = running.cell.settings.max_steps
            lines.append(
                Text(
                    f"{running.cell.title} on {running.device}: {how_far} of at most {most:,} steps, {_clock(seconds)}"
                )
            )
        return lines

    def _summary(self, progress: Progress) -> Text:
        left = progress.seconds_left()
        failed = f", {len(progress.failed)} failed" if progress.failed else ""
        time_left = f", {_clock(left)} left" if left is not None and progress.running else ""
        return Text(f"{len(progress.finished)} of {progress.total} cells finished{failed}{time_left}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
