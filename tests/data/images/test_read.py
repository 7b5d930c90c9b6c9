import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ccpml.data.images.read import BadImageError, read_header, read_image
from tests.data.image_files import encoded, png_16_bit_rgb, smooth

COLOR = smooth(40, 60)
GRAY = smooth(40, 60, 1)


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def off_by(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_are_read_exactly(kind: str, tmp_path: Path) -> None:
    for pixels in (COLOR, GRAY):
        path = tmp_path / "image"
        path.write_bytes(encoded(pixels, kind))
        as_rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
        as_gray = luma(pixels) if pixels.ndim == 3 else pixels[:, :, None]
        assert np.array_equal(read_image(path, 3), as_rgb)
        assert np.array_equal(read_image(str(path), 1), as_gray)


def test_jpeg_is_decoded_as_by_pillow() -> None:
    for pixels in (COLOR, GRAY):
        data = encoded(pixels, "JPEG", quality=92)
        with Image.open(io.BytesIO(data)) as image:
            assert off_by(read_image(data, 3), np.asarray(image.convert("RGB"))) <= 1
            assert off_by(read_image(data, 1), np.asarray(image.convert("L"))[:, :, None]) <= 2


def test_cmyk_jpeg() -> None:
    data = encoded(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=95)
    assert off_by(read_image(data, 3), COLOR) < 16
    assert read_image(data, 1).shape == (40, 60, 1)


def test_palette() -> None:
    image = Image.fromarray(COLOR).quantize(16)
    assert np.array_equal(read_image(encoded(image, "PNG"), 3), np.asarray(image.convert("RGB")))
    assert np.array_equal(read_image(encoded(image, "GIF"), 3), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "I", "I;16", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_all_modes_are_alike_in_gray_and_color(mode: str) -> None:
    image = Image.new(mode, (60, 40)) if mode in {"I;16", "LAB", "PA"} else Image.fromarray(COLOR).convert(mode)
    if mode in {"I;16", "LAB", "PA"}:
        values = COLOR[:, :, : len(image.getbands())].astype(np.uint16 if mode == "I;16" else np.uint8)
        image.frombytes(values.tobytes())
    data = encoded(image, "TIFF")
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == mode
    pixels = read_image(data, 3)
    assert len(np.unique(pixels)) > 1
    assert np.array_equal(read_image(data, 1), luma(pixels))


def test_one_bit() -> None:
    image = Image.fromarray(GRAY).convert("1")
    for kind in ("PNG", "TIFF"):
        assert set(np.unique(read_image(encoded(image, kind), 1)).tolist()) == {0, 255}
        assert read_image(encoded(image, kind), 3).shape == (40, 60, 3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    inverse = io.BytesIO()
    Image.fromarray(65535 - wide).save(inverse, "TIFF", tiffinfo={262: 0})  # 0 is white
    assert (read_image(inverse.getvalue(), 1)[:, :, 0] == np.round(wide / 257)).all()
    expected = np.round(wide / 257).astype(np.uint8)[:, :, None]
    for kind in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(read_image(encoded(Image.fromarray(wide), kind), 1), expected)
    assert np.array_equal(read_image(encoded(Image.fromarray(wide), "PNG"), 3), np.repeat(expected, 3, 2))


def test_sixteen_bit_color_is_scaled() -> None:
    assert np.unique(read_image(png_16_bit_rgb(0x80FF), 3)).tolist() == [0x80]


def test_pixels_without_a_known_range_are_refused() -> None:
    for array in (np.full((4, 4), 70000, np.int32), np.ones((4, 4), np.float32)):
        with pytest.raises(BadImageError, match="unknown range"):
            read_image(encoded(Image.fromarray(array), "TIFF"), 1)


def test_transparent_images_are_composed_onto_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    expected = np.array([0, 0, 255, 255])
    la = Image.fromarray(rgba).convert("LA")
    palette = Image.fromarray(np.array([[0] * 4] * 2 + [[1] * 4] * 2, np.uint8)).convert("P")
    files = [
        encoded(Image.fromarray(rgba), "PNG"),
        encoded(Image.fromarray(rgba), "WEBP", lossless=True),
        encoded(la, "PNG"),
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "PNG", transparency=bytes([255, 0])),
        encoded(palette, "GIF", transparency=1),
    ]
    for data in files:
        for channels in (1, 3):
            pixels = read_image(data, channels)
            assert pixels.shape == (4, 4, channels)
            assert off_by(pixels[:, 0, :1], expected[:, None].astype(np.uint8)) <= 1
    half = np.full((1, 1, 4), (0, 0, 0, 128), np.uint8)
    assert read_image(encoded(half, "PNG"), 1).item() == 127


def test_one_pixel_wide() -> None:
    for kind in ("PNG", "JPEG"):
        assert read_image(encoded(COLOR[:, :1].copy(), kind), 3, min_size=8).shape == (40, 1, 3)


def test_reduced_size() -> None:
    data = encoded(smooth(400, 640), "JPEG", quality=95)
    shapes = [read_image(data, 3, min_size).shape[:2] for min_size in (None, 201, 200, 101, 100, 1)]
    assert shapes == [(400, 640), (400, 640), (200, 320), (150, 240), (100, 160), (50, 80)]
    reduced = Image.fromarray(read_image(data, 3)).reduce(2)
    assert off_by(read_image(data, 3, 200), np.asarray(reduced)) <= 6


def test_arrays() -> None:
    assert read_image(COLOR, 3) is COLOR
    assert np.array_equal(read_image(COLOR, 1), luma(COLOR))
    assert np.array_equal(read_image(GRAY, 1)[:, :, 0], GRAY)
    assert np.array_equal(read_image(GRAY[:, :, None], 3)[:, :, 2], GRAY)
    for array in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2), np.float32), np.zeros((0, 2), np.uint8)):
        with pytest.raises(ValueError, match="image: expected uint8"):
            read_image(array, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels"):
        read_image(COLOR, 2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8), kind)
    path = tmp_path / "short.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadImageError) as caught:
        read_image(path, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.name == str(path)
    assert "\n" not in caught.value.reason


def test_files_that_are_not_images(tmp_path: Path) -> None:
    contents = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"hello, world", "known format"),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
    }
    for name, (data, reason) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImageError, match=f"{name}: .*{reason}"):
            read_image(tmp_path / name, 3)
    for path in (tmp_path, tmp_path / "missing.png"):
        for read in (lambda path: read_image(path, 3), read_header):
            with pytest.raises(BadImageError, match="cannot be opened"):
                read(path)


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.data.images.read.MAX_PIXELS", 2399)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        (tmp_path / "bomb.png").write_bytes(encoded(COLOR, kind))
        reason = r"bomb\.png: too large: expected at most 0 million pixels, got 40 × 60; reduce it"
        for read in (lambda path: read_image(path, 3), read_header):
            with pytest.raises(BadImageError, match=reason):
                read(tmp_path / "bomb.png")


def test_limits_of_pillow_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(encoded(COLOR, "PNG"), 3).shape == COLOR.shape
    with pytest.raises(BadImageError, match=r"at most 0 million pixels in this format, got 0 million; .* JPEG or PNG"):
        read_image(encoded(COLOR, "WEBP"), 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_large_images_are_read_at_half_size(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reduced copy of the whole image, rotated as it is, with the right size in the header."""
    image = Image.fromarray(smooth(400, 640))
    image = Image.fromarray(smooth(400, 640, 1).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    kinds = {"L": ("PNG", "JPEG"), "RGB": ("PNG", "JPEG", "WEBP"), "CMYK": ("TIFF", "JPEG")}.get(mode, ("PNG",))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by a quarter
    for data in (encoded(image, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {})) for kind in kinds):
        whole = read_image(data, 3)
        with monkeypatch.context() as patch:
            patch.setattr("ccpml.data.images.opening._LARGE", 400 * 640 - 1)
            assert read_header(data)[:2] == (640, 400)
            half = read_image(data, 3)
            assert read_image(data, 1, min_size=50).shape[0] <= 320
        expected = np.asarray(Image.fromarray(whole).reduce(2))
        assert half.shape == expected.shape == (320, 200, 3)
        assert np.abs(half.astype(int) - expected).mean() < 2


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), st.data())
def test_damaged_files_are_read_or_raise_bad_image_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(COLOR, kind))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = read_image(bytes(content), 3)
    except BadImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_gray_according_to_the_header(tmp_path: Path) -> None:
    gray = Image.fromarray(GRAY)
    wide = Image.fromarray(GRAY.astype(np.uint16) * 257)
    cases = [
        (encoded(gray, "PNG"), True),
        (encoded(gray, "JPEG"), True),
        (encoded(gray.convert("1"), "PNG"), True),
        (encoded(gray.convert("LA"), "PNG"), True),
        (encoded(wide, "PNG"), True),
        (encoded(wide, "PPM"), True),
        (encoded(COLOR, "PNG"), False),
        (encoded(gray.convert("RGB"), "JPEG"), False),
        (encoded(gray.convert("P"), "PNG"), False),
    ]
    for data, expected in cases:
        (tmp_path / "image").write_bytes(data)
        assert read_header(tmp_path / "image").gray is expected


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_errors_that_are_no_fault_of_an_image(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr("ccpml.artifacts._open_at_once", failing)
    with pytest.raises(OSError, match="no more") as caught:
        read_image(tmp_path / "a.png", 1)
    assert not isinstance(caught.value, BadImageError)
    with pytest.raises(OSError, match="no more"):
        read_header(tmp_path / "a.png")
