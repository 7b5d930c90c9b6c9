"""Maps of a pair, for models whose evidence is known."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.serving.explain import draw_map, explain_pair, occlusion_map, peak, shrink
from tests.serving.embedders import ColorEmbedder


class RegionEmbedder(ColorEmbedder):
    """A model that looks at one region alone, given in parts of the sides: top, bottom, left, right."""

    def __init__(self, *region: float) -> None:
        super().__init__(path=Path("runs/region"))
        self.region, self.embedding_dim, self.seen = region, 3, 0

    def embed(self, images):
        self.seen += len(images)
        return np.stack([self._mean(image) for image in images])

    def _mean(self, image: np.ndarray) -> np.ndarray:
        (height, width), (top, bottom, left, right) = image.shape[:2], self.region
        part = image[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
        vector = part.reshape(-1, 3).mean(axis=0)
        return vector / np.linalg.norm(vector)


def framed(color, inner, rows, columns, shape=(70, 105)):
    """A picture of one color with a rectangle of another."""
    pixels = np.full((*shape, 3), color, np.uint8)
    pixels[rows[0] : rows[1], columns[0] : columns[1]] = inner
    return pixels


def test_the_region_that_the_model_compares_is_found_and_nothing_else():
    query = framed((0, 0, 250), (250, 0, 0), (10, 20), (75, 90))  # row 1, column 5 of 7
    item = framed((0, 200, 0), (250, 0, 0), (10, 20), (75, 90))
    embedder = RegionEmbedder(1 / 7, 2 / 7, 5 / 7, 6 / 7)
    maps = explain_pair(embedder, query, item)
    assert maps.distance == pytest.approx(0, abs=1e-6)
    for values in (maps.query, maps.item):
        assert np.unravel_index(values.argmax(), values.shape) == (1, 5)
        reached = np.zeros_like(values, dtype=bool)
        reached[:3, 4:] = True  # by a window that covers the region
        assert np.array_equal(values > 1e-3, reached)
        assert not values[~reached].any()
    assert peak(maps.query) == "top right"
    assert embedder.seen == 2 * 64 + 2


def test_a_region_that_keeps_two_pictures_apart_is_negative():
    query = framed((120, 120, 120), (250, 0, 0), (40, 50), (60, 75))  # red where the other is gray
    item = np.full((70, 105, 3), 120, np.uint8)
    maps = explain_pair(RegionEmbedder(4 / 7, 5 / 7, 4 / 7, 5 / 7), query, item)
    assert np.unravel_index(maps.query.argmin(), maps.query.shape) == (4, 4)
    assert maps.query.max() < 1e-9
    assert np.abs(maps.item).max() < 1e-9  # its mean color is its only color
    assert peak(maps.item) == ""
    assert maps.largest == pytest.approx(-maps.query.min())


def test_values_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    pixels, embedder = rng.integers(0, 256, (43, 61, 3), np.uint8), ColorEmbedder(4)
    other = embedder.embed([rng.integers(0, 256, (43, 61, 3), np.uint8)])[0]
    before = np.linalg.norm(embedder.embed([pixels])[0] - other)
    cell_of_row, cell_of_column = (
        np.searchsorted(np.round(np.arange(1, 8) * side / 7), np.arange(side), side="right") for side in (43, 61)
    )
    expected = np.zeros((7, 7))
    for row, column, down, right in np.ndindex(7, 7, 2, 2):  # the four windows that cover a cell
        image = pixels.copy()
        covered = np.isin(cell_of_row, (row - down, row - down + 1))[:, None]
        covered = covered & np.isin(cell_of_column, (column - right, column - right + 1))
        image[covered] = np.round(pixels.mean(axis=(0, 1)))
        expected[row, column] += (np.linalg.norm(embedder.embed([image])[0] - other) - before) / 4
    assert np.allclose(occlusion_map(embedder, pixels, other), expected, atol=1e-6)


def test_a_drawn_map_is_orange_where_similar_blue_where_not_and_clear_elsewhere():
    values = np.zeros((7, 7), np.float32)
    values[1, 1], values[5, 5] = 0.5, -0.5
    with Image.open(io.BytesIO(draw_map(values, 0.5, (100, 100)))) as image:
        drawn = np.asarray(image.convert("RGBA"))
    side = len(drawn) // 7
    red, _, blue, alpha = drawn[side + side // 2, side + side // 2].astype(int)
    assert red > blue
    assert alpha > 150
    red, _, blue, alpha = drawn[5 * side + side // 2, 5 * side + side // 2].astype(int)
    assert blue > red
    assert alpha > 150
    assert drawn[side // 2, -side // 2, 3] < 5
    with Image.open(io.BytesIO(draw_map(np.zeros((7, 7), np.float32), 0.0, (300, 100)))) as image:
        assert image.size == (85, 256)  # the aspect ratio of its picture
        assert not np.asarray(image.convert("RGBA"))[..., 3].any()


def test_large_pictures_are_shrunk_and_other_arrays_refused():
    assert shrink(np.zeros((300, 2048, 3), np.uint8)).shape == (75, 512, 3)
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), got float64"):
        explain_pair(ColorEmbedder(), np.zeros((8, 8, 3)), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"picture: expected an array, uint8 \(H, W, 3\), got str"):
        explain_pair(ColorEmbedder(), "a.jpg", np.zeros((8, 8, 3), np.uint8))
