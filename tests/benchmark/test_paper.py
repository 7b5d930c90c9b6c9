import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import Benchmark, Row
from ccpml.benchmark.rows import table_rows
from ccpml.data_name import BENCHMARKS
from ccpml.presets import read_preset
from ccpml.runs.settings import Settings

NAMES = {"SOP": "sop", "In-Shop": "inshop", "CUB": "cub", "Cars196": "cars196"}
SETTINGS = {"512": "concatenated", "128": "separated"}


def published() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Read the paper's tables: data set, row, setting, then P@1, P@R and MAP@R."""
    tables: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in BENCHMARKS}
    columns: list[tuple[str, str]] = []
    for line in (Path(__file__).parent / "paper_tables.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "method":
            columns = []
            for cell in cells[1:]:
                found = re.match(r"(\S+) (512|128): P@1", cell)
                columns.append((NAMES[found[1]], SETTINGS[found[2]]) if found else columns[-1])
        elif line.startswith("|") and not cells[0].startswith("-"):
            for (data, setting), cell in zip(columns, cells[1:], strict=True):
                if cell != "-":
                    tables[data].setdefault(cells[0], {}).setdefault(setting, []).append(float(cell))
    return tables


def test_the_preset_holds_the_published_figures() -> None:
    tables = published()
    assert sum(len(rows) for rows in tables.values()) == 4 * 14 - 1  # HPL-PA was not measured on In-Shop
    assert read_preset("paper") == tables


def reported(data: str, row: Row, protocol: str = "mlrc") -> Mapping[str, Mapping[str, float]] | None:
    return paper_scores(Benchmark(Settings(data=data), (row,), Path("out"), protocol), row)


@pytest.mark.parametrize("data", BENCHMARKS)
def test_rows_find_their_figures(data: str) -> None:
    tables = published()
    losses = ["c1", "c2", "triplet", "ms", "proxy_anchor", "proxy_nca", "soft_triple"]
    found = 0
    for row in table_rows(losses, ["plain", "ccp", "xbm"]):
        large = "-L" if row.method in {"ccp", "xbm"} else ""
        theirs, ours = tables[data].get(row.title + large), reported(data, row)
        if theirs is None:
            assert ours is None
            continue
        found += 1
        assert ours is not None
        for setting, scores in theirs.items():
            assert list(ours[setting].values()) == pytest.approx([score / 100 for score in scores])
    assert found == 13


def test_rows_that_the_paper_does_not_have() -> None:
    assert reported("cub", Row("contrastive", "ccp"), "conventional") is None
    assert reported("glyphs", Row("contrastive", "ccp")) is None
    assert reported("cub", Row("contrastive", "xbm-s")) is None
    assert reported("cub", Row("arcface", "plain")) is None
    assert reported("cub", Row("contrastive", "ccp", "rewind=true", {"projections.rewind": True})) is None
