"""A table of texts, in Markdown and in LaTeX."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows.
        columns: Group and name of each column but the first, which holds the rows' titles.
        rows: The texts of each row, its title first.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write it as Markdown, columns aligned."""
        heads = ["", *(" ".join(filter(None, column)) for column in self.columns)]
        widths = [max(3, *map(cell_len, cells)) for cells in zip(heads, *self.rows, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join(_line(cells, widths) for cells in (heads, rule, *self.rows)) + "\n"

    def tex(self) -> str:
        """Write it as a LaTeX table in the manner of booktabs."""
        lines = [r"\begin{table}", r"\centering", r"\small", r"\setlength{\tabcolsep}{3pt}"]
        lines += [f"\\caption{{{_tex(self.title)}}}", f"\\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        spans = _spans([group for group, _ in self.columns])
        if any(group for group, _, _ in spans):
            lines.append(
                " & ".join(["", *(f"\\multicolumn{{{b - a}}}{{c}}{{{_tex(group)}}}" for group, a, b in spans)]) + r" \\"
            )
            lines.append(" ".join(f"\\cmidrule(lr){{{a + 2}-{b + 1}}}" for group, a, b in spans if group))
        lines += [_tex_row(["", *(name for _, name in self.columns)]), r"\midrule"]
        lines += [_tex_row(row) for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    """Write a line of a Markdown table, the first column flush left and the others right."""
    padded = [
        cell + " " * (width - cell_len(cell)) if place == 0 else " " * (width - cell_len(cell)) + cell
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _spans(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """Give each run of equal groups: which, from, to (not included)."""
    starts = [place for place, group in enumerate(groups) if place == 0 or group != groups[place - 1]]
    return [(groups[a], a, b) for a, b in pairwise([*starts, len(groups)])]


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", '"': "''", "±": r"$\pm$", "–": "--", "×": r"$\times$"},
    **{"λ": r"$\lambda$", "φ": r"$\varphi$", "θ": r"$\theta$"},
}


def _tex(text: str) -> str:
    """Write a text in LaTeX; what its standard fonts lack, by its code point."""
    if re.fullmatch(r"[+-][\d.,]+.*|.*\([+-][\d.]+\)", text):
        text = text.replace("-", "−")
    known = {**_TEX, "−": "$-$"}
    return "".join(known.get(c, c if c.isprintable() and ord(c) < 0x180 else f"U+{ord(c):04X}") for c in text)
