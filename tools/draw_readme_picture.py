"""Draw the picture of the README: some test queries of a run and their nearest neighbors.

Usage: ``python tools/draw_readme_picture.py runs/demo``, after ``make demo``. The queries are at even ranks between the
worst and the best score, without these two.
"""

import io
import sys
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from ccpml.data_name import DataName
from ccpml.report.embedded import evenly_spaced, read_embedded
from ccpml.report.gallery import neighbors_of
from ccpml.report.images import Images
from ccpml.report.style import Picture, style
from ccpml.report.tiles import Row, Tile, draw_rows
from ccpml.runs.directory import RunDirectory

OUTPUT: Final = Path(__file__).parents[1] / "docs" / "images" / "gallery.jpg"
QUERIES: Final = 4
NEIGHBORS: Final = 7


def main() -> None:
    """Write the picture."""
    run = RunDirectory.open(Path(sys.argv[1]))
    settings, test = run.settings(), read_embedded(run, "test")
    assert test is not None
    images, scores = Images(settings.data), test.map_at_r()
    rows = np.random.default_rng(settings.seed).permutation(len(scores))
    rows = rows[np.argsort(scores[rows], kind="stable")]
    queries = rows[evenly_spaced(len(rows), QUERIES + 2)[1:-1]]
    drawn = []
    for query, neighbors in zip(queries, neighbors_of(test, queries), strict=True):
        tiles = [Tile(images.small(test.paths[query]), "query")]
        for row in neighbors[:NEIGHBORS]:
            name = test.class_names[test.labels[row]]
            tiles.append(Tile(images.small(test.paths[row]), name, bool(test.labels[row] == test.labels[query])))
        drawn.append(Row(test.class_names[test.labels[query]], "", tiles, lead=1))
    with style():
        png = Picture.of(draw_rows(drawn, 1 + NEIGHBORS), OUTPUT.name, DataName.parse(settings.data).label).png
    Image.open(io.BytesIO(png)).convert("RGB").save(OUTPUT, quality=85, optimize=True)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
