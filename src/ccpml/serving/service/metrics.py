"""Counters and histograms, in the text format of Prometheus (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["Counter", "Histogram", "Metrics", "gauge"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DISTANCES: Final = tuple(step / 20 for step in range(1, 41))  # of φ-normalized embeddings: up to 2


class Counter:
    """A number for each combination of labels, which only grows.

    Example:
        >>> counter = Counter("searches_total", "Searches.", ("kind",))
        >>> counter.add(2, "picture")
        >>> list(counter.lines())[-1]
        'searches_total{kind="picture"} 2'
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self._text, self._labels = name, text, labels
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1, *labels: str) -> None:
        """Add to the number of some labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + amount

    def total(self) -> float:
        """Return the sum over all labels."""
        with self._lock:
            return sum(self._values.values())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield from _head(self.name, self._text, "counter")
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self.name}{_braces(dict(zip(self._labels, labels, strict=True)))} {_number(value)}"


class Histogram:
    """How many observations were at most each of some bounds, their number and sum, for each label.

    Example:
        >>> histogram = Histogram("seconds", "Time.", (1.0,))
        >>> histogram.observe(0.5)
        >>> list(histogram.lines())[2:]
        ['seconds_bucket{le="1"} 1', 'seconds_bucket{le="+Inf"} 1', 'seconds_sum 0.5', 'seconds_count 1']
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], label: str | None = None) -> None:
        self.name, self._text, self._bounds, self._label = name, text, bounds, label
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {} if label else {"": [0] * (len(bounds) + 1)}
        self._sums: dict[str, float] = {} if label else {"": 0.0}

    def observe(self, value: float, label: str = "") -> None:
        """Count a value."""
        with self._lock:
            counts = self._counts.setdefault(label, [0] * (len(self._bounds) + 1))
            counts[bisect_left(self._bounds, value)] += 1
            self._sums[label] = self._sums.get(label, 0.0) + value

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield from _head(self.name, self._text, "histogram")
        with self._lock:
            found = [(label, list(counts), self._sums[label]) for label, counts in sorted(self._counts.items())]
        for label, counts, total in found:
            labels, sofar = {self._label: label} if self._label else {}, 0
            for bound, count in zip([*map(_number, self._bounds), "+Inf"], counts, strict=True):
                sofar += count
                yield f"{self.name}_bucket{_braces({**labels, 'le': bound})} {sofar}"
            yield f"{self.name}_sum{_braces(labels)} {_number(total)}"
            yield f"{self.name}_count{_braces(labels)} {sofar}"


def gauge(name: str, text: str, value: float) -> list[str]:
    """Return the lines of a number that can also fall."""
    return [*_head(name, text, "gauge"), f"{name} {_number(value)}"]


class Metrics:
    """What the service counts."""

    def __init__(self) -> None:
        self.requests = Counter("ccpml_requests_total", "Requests.", ("route", "method", "status"))
        self.refused = Counter("ccpml_refused_total", "Requests refused before they were looked at.", ("status",))
        self.seconds = Histogram("ccpml_request_seconds", "Time from request to response.", _SECONDS, "route")
        self.embedding = Histogram("ccpml_embedding_seconds", "Time to decode and embed a query's pictures.", _SECONDS)
        self.lookup = Histogram("ccpml_lookup_seconds", "Time to find the nearest items of a query.", _SECONDS)
        self.distances = Histogram("ccpml_first_distance", "Distance of the nearest item of a query.", _DISTANCES)
        self.searches = Counter("ccpml_searches_total", "Searches, by what was searched for.", ("query",))
        self.unanswered = Counter("ccpml_unanswered_total", "Searches without a hit within the bounds asked for.")
        self.verdicts = Counter("ccpml_verdicts_total", "Verdicts about hits.", ("verdict",))

    def text(self, gauges: Sequence[Sequence[str]]) -> str:
        """Return all in the text format, with the lines of gauges."""
        lines = [line for metric in vars(self).values() for line in metric.lines()]
        return "\n".join([*lines, *(line for part in gauges for line in part)]) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _braces(labels: Mapping[str, str]) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
