"""A table of texts in Markdown and LaTeX."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len

__all__ = ["TextTable"]


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        columns: Group and name of each column, except for the first column, which holds the titles of the rows.
        rows: Texts of each row, beginning with its title.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, with aligned columns."""
        head = ["", *(" ".join(filter(None, column)) for column in self.columns)]
        widths = [max(3, *map(cell_len, cells)) for cells in zip(head, *self.rows, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join(_markdown_line(cells, widths) for cells in (head, rule, *self.rows)) + "\n"

    def tex(self) -> str:
        """Return the table in LaTeX, for the package booktabs."""
        lines = [r"\begin{table}", r"\centering", r"\small", r"\setlength{\tabcolsep}{3pt}"]
        lines += [f"\\caption{{{_tex(self.title)}}}", f"\\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        spans = _spans([group for group, _ in self.columns])
        if any(group for group, _, _ in spans):
            groups = ["", *(f"\\multicolumn{{{end - start}}}{{c}}{{{_tex(group)}}}" for group, start, end in spans)]
            rules = [f"\\cmidrule(lr){{{start + 2}-{end + 1}}}" for group, start, end in spans if group]
            lines += [" & ".join(groups) + r" \\", " ".join(rules)]
        lines += [_tex_line(["", *(name for _, name in self.columns)]), r"\midrule", *map(_tex_line, self.rows)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _markdown_line(cells: Iterable[str], widths: Sequence[int]) -> str:
    """Return a line of a Markdown table: the first column aligned left, the others right."""
    first, *others = [(cell, " " * (width - cell_len(cell))) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join([first[0] + first[1], *(padding + cell for cell, padding in others)])} |"


def _spans(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return each run of equal groups, with its start and its end (exclusive)."""
    starts = [index for index, group in enumerate(groups) if index == 0 or group != groups[index - 1]]
    return [(groups[start], start, end) for start, end in pairwise([*starts, len(groups)])]


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", '"': "''", "±": r"$\pm$", "–": "--", "×": r"$\times$"},
    **{"λ": r"$\lambda$", "φ": r"$\varphi$", "θ": r"$\theta$"},
}


def _tex(text: str) -> str:
    """Escape a text for LaTeX; characters that its standard fonts lack are written as code points."""
    if re.fullmatch(r"[+-][\d.,]+.*|.*\([+-][\d.]+\)", text):
        text = text.replace("-", "−")
    known = {**_TEX, "−": "$-$"}
    return "".join(known.get(c, c if c.isprintable() and ord(c) < 0x180 else f"U+{ord(c):04X}") for c in text)
