"""EXIF rotations, compared with Pillow's own: files, decoded in part, reduced, from the cache, by a dataset."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ccpml.data import EvalTransform, ImageDataset, TrainTransform, load_folder, load_source, read_image
from ccpml.data.images.cache import pack_source, use_cache
from ccpml.data.images.orientation import jpeg_orientation, upright
from ccpml.data.images.read import read_header, read_part
from ccpml.data_name import DataName
from ccpml.report.images import Images
from tests.data.image_files import encoded, smooth
from tests.data.layouts import make_cub, small_counts

ORIENTATIONS = range(1, 9)
TAG = 0x0112


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[TAG] = orientation
    return tags


def photo(orientation: int, kind: str = "JPEG", height: int = 60, width: int = 97, channels: int = 3) -> bytes:
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(smooth(height, width, channels), kind, exif=exif(orientation), **options)


def as_pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    for channels in (3, 1):
        data = photo(orientation, kind, channels=channels)
        tolerance = 2 if kind == "JPEG" else 0  # two decoders
        for mode, count in (("RGB", 3), ("L", 1)):
            expected = as_pillow(data, mode).reshape(*as_pillow(data, "L").shape, count).astype(int)
            pixels = read_image(data, count)
            assert pixels.shape == expected.shape
            assert np.abs(pixels - expected).max() <= tolerance
            assert pixels.flags.c_contiguous
            assert pixels.flags.writeable
        (tmp_path / "photo").write_bytes(data)
        assert read_header(tmp_path / "photo")[:2] == pixels.shape[:2]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_can_be_read_as_stored(orientation: int, tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        data = photo(orientation, kind)
        assert (read_image(data, 3, rotate=False) == read_image(photo(1, kind), 3)).all()
        (tmp_path / "photo").write_bytes(data)
        assert read_header(tmp_path / "photo", rotate=False)[:2] == (60, 97)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_crops_of_parts_and_of_reduced_jpegs(orientation: int) -> None:
    """What a transform sees is its view of the upright image, however little of the file is decoded."""
    data = photo(orientation, height=400, width=532)
    for transform in (TrainTransform(24, min_area=0.4), EvalTransform(24)):
        for seed in range(4):

            def view(shape, transform=transform, seed=seed):
                return transform.view(shape, np.random.default_rng(seed))

            for min_size in (None, transform.min_size):
                pixels, needed = read_part(data, 3, view, min_size)
                whole = read_image(data, 3, min_size)
                assert whole.shape[0] / whole.shape[1] == pytest.approx(
                    532 / 400 if orientation > 4 else 400 / 532, rel=0.02
                )
                assert needed == view(whole.shape)
                assert np.abs(needed.of(pixels).astype(int) - needed.of(whole)).max() <= 1


def test_a_dataset_and_the_cache(tmp_path: Path) -> None:
    for orientation in ORIENTATIONS:
        path = tmp_path / "photos" / "ab"[orientation % 2] / f"{orientation}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(orientation))
    source, name = load_folder(tmp_path / "photos"), DataName("folder", str(tmp_path / "photos"))
    pack_source(source, name, 40, progress=False)
    packed = use_cache(load_folder(tmp_path / "photos"), name)
    assert packed.table.packed
    files, cached = (ImageDataset(x.table, EvalTransform(20), 3) for x in (source, packed))
    for row, path in enumerate(source.table.images):
        assert isinstance(path, Path)
        expected = as_pillow(path.read_bytes())
        small = read_image(packed.table.images[row], 3)
        assert small.shape == (*(round(side * 40 / 60) for side in expected.shape[:2]), 3)
        size = small.shape[1], small.shape[0]
        reduced = np.asarray(Image.fromarray(expected).resize(size, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(small - reduced).max() <= 2
        seen = EvalTransform(20)(expected).transpose(2, 0, 1).astype(int)
        assert np.abs(files[row][0].numpy() - seen).max() <= 3
        assert np.abs(cached[row][0].numpy() - seen).max() <= 6


def test_benchmarks_are_read_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_counts(monkeypatch)
    folder = make_cub(tmp_path)
    path = sorted((folder / "images").rglob("*.jpg"))[7]
    path.write_bytes(photo(6))
    source = load_source("cub", tmp_path)
    row = source.table.images.index(path)  # type: ignore[union-attr]
    expected = EvalTransform(20)(read_image(photo(1), 3)).transpose(2, 0, 1)
    assert (ImageDataset(source.table.select([row]), EvalTransform(20), 3)[0][0].numpy() == expected).all()
    pack_source(source, DataName("cub"), 100, progress=False)
    table = use_cache(source, DataName("cub")).table.subset([1])
    assert (ImageDataset(table, EvalTransform(20), 3)[2][0].numpy() == expected).all()
    thumbnails = [Images(data).small(str(path)) for data in ("cub", f"folder:{tmp_path}")]
    assert [image.shape for image in thumbnails if image is not None] == [(60, 97, 3), (97, 60, 3)]


def test_the_tag_may_be_xmp_or_damaged_or_unknown() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(smooth(60, 97), "JPEG", xmp=xmp)
    assert jpeg_orientation(data) == 6
    assert read_image(data, 3).shape == (97, 60, 3)
    whole = exif(6).tobytes()
    for damaged in (whole[:-3], whole[:9], whole[:6] + b"no TIFF header", exif(0).tobytes(), exif(9).tobytes()):
        assert read_image(encoded(smooth(60, 97), "JPEG", exif=damaged), 3).shape == (60, 97, 3)


def test_upright_and_back() -> None:
    pixels = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
    inverse = {6: 8, 8: 6}
    for orientation in ORIENTATIONS:
        assert (upright(upright(pixels, orientation), inverse.get(orientation, orientation)) == pixels).all()
