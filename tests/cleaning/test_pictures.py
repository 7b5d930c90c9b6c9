"""Copies of pictures: what is the same but for encoding and size, and what is another picture."""

import io

import numpy as np
import pytest
from PIL import Image

from ccpml.cleaning.copies import group_same
from ccpml.cleaning.pictures import Collection, PictureComparison, read_facts
from ccpml.cleaning.pixels import likeness
from ccpml.data import ImageTable
from ccpml.data.sources.groceries import load_groceries


def encoded(image: Image.Image, kind: str, **options: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    collection = Collection([load_groceries().table])
    return [collection.small(row, 256) for row in range(0, 1944, 162)]


SAME = {
    "jpeg 90": lambda x: encoded(x, "JPEG", quality=90),
    "jpeg 30": lambda x: encoded(x, "JPEG", quality=30),
    "webp": lambda x: encoded(x, "WEBP", quality=50),
    "half": lambda x: x.resize((x.width // 2, x.height // 2)),
    "half, nearest": lambda x: x.resize((x.width // 2, x.height // 2), Image.Resampling.NEAREST),
    "double": lambda x: x.resize((2 * x.width, 2 * x.height)),
    "two thirds in jpeg": lambda x: encoded(x.resize((2 * x.width // 3, 2 * x.height // 3)), "JPEG", quality=70),
}


def moved(x: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(x), 4, axis=1))


def patched(x: Image.Image) -> Image.Image:
    pixels = np.array(x)
    height, width = x.height // 8, x.width // 8
    pixels[:height, :width] = 255 - pixels[:height, :width]
    return Image.fromarray(pixels)


OTHER = {
    "mirrored": lambda x: x.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "moved": moved,
    "patched": patched,
    "rotated": lambda x: x.rotate(180),
    "cropped": lambda x: x.crop((x.width // 20, x.height // 20, x.width, x.height)),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_picture_in_another_file(how, photographs):
    assert all(likeness(image, SAME[how](image)) for image in photographs)


@pytest.mark.parametrize("how", OTHER)
def test_another_picture(how, photographs):
    assert not any(likeness(image, OTHER[how](image)) for image in photographs)


def test_different_photographs_are_not_the_same(photographs):
    pairs = [(a, b) for number, a in enumerate(photographs) for b in photographs[:number]]
    assert not any(likeness(a, b.resize(a.size)) for a, b in pairs)


def test_blank_pictures_are_compared_by_their_color():
    white, gray = (Image.new("RGB", (40, 40), (value,) * 3) for value in (255, 250))
    assert likeness(white, white) == 1
    plain = Image.new("RGB", (40, 40), (200, 30, 50))
    assert likeness(plain, encoded(plain, "JPEG", quality=75)) > 0.8
    assert not likeness(white, gray)


def test_pictures_of_almost_no_contrast_are_compared_by_what_they_have(photographs):
    faint = [Image.fromarray((np.asarray(image) // 32).astype(np.uint8)) for image in photographs]
    pairs = [(a, b.resize(a.size)) for number, a in enumerate(faint) for b in faint[number + 1 :]]
    assert not any(likeness(a, b) for a, b in pairs)
    for image in faint:
        assert likeness(image, image.copy()) == 1
        assert likeness(image, encoded(image, "JPEG", quality=95))


def test_files_are_read_once_and_bad_ones_are_listed(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
    picture.save(tmp_path / "a.png")
    picture.resize((40, 30)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "d.png").write_bytes(b"")
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    table, facts, bad = read_facts(ImageTable.from_classes(paths, ["x"] * 4))
    assert [(image.row, image.reason) for image in bad] == [(3, "the file is empty")]
    assert len(table) == 3
    assert facts.content_hashes[0] == facts.content_hashes[2] != facts.content_hashes[1]
    assert facts.sizes.tolist() == [[60, 80], [30, 40], [60, 80]]
    same = PictureComparison(Collection([table]), facts)
    assert same(0, 1) > 0.9
    with pytest.raises(ValueError, match=r"d\.png: the file is empty; expected at least one image that can be read"):
        read_facts(ImageTable.from_classes(paths[3:], ["x"]))


def test_groups_do_not_chain():
    """Each member is the same as the leader; members that are only the same as each other are another group."""
    positions = np.array([0.0, 0.4, 0.8, 1.2, 5.0])

    def same(a, b):
        return float(abs(positions[a] - positions[b]) < 0.5)

    leaders, _ = group_same([(0, 1), (1, 2), (2, 3), (3, 4)], same, np.array([3, 0, 2, 1, 4]))
    assert leaders.tolist() == [1, 1, 1, 3, 4]
