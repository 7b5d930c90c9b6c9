import io
from typing import NamedTuple

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ccpml.data import BadImageError, read_image
from ccpml.data.images.jpeg import decode_jpeg, jpeg_size
from ccpml.data.images.read import read_part
from tests.data.image_files import encoded, smooth


class Rows(NamedTuple):
    shape: tuple[int, ...]
    rows: int | None


def top_of(data: bytes, rows: int, channels: int = 3, min_size: int | None = None) -> NDArray[np.uint8]:
    decoded = decode_jpeg(data, channels, min_size, lambda shape: Rows(shape, rows))
    assert decoded is not None
    return decoded[0]


def noisy(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-40, 40, (height, width, 3))
    return np.clip(smooth(height, width).astype(int) + noise, 0, 255).astype(np.uint8)


def samplings(pixels: NDArray[np.uint8]) -> list[bytes]:
    files = [simplejpeg.encode_jpeg(pixels, 80, colorsubsampling=s) for s in ("444", "422", "420", "440", "411")]
    files.append(simplejpeg.encode_jpeg(pixels[:, :, :1].copy(), 80, "GRAY", "Gray"))
    options = [{"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"optimize": True}]
    return files + [encoded(pixels, "JPEG", **option) for option in options]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 90), st.integers(1, 210), st.sampled_from([None, 1, 7, 20]), st.integers(0, 99)
)
def test_the_first_rows_equal_those_of_the_full_image(
    height: int, width: int, rows: int, min_size: int | None, seed: int
) -> None:
    for data in samplings(noisy(height, width, seed)):
        for channels in (1, 3):
            whole = read_image(data, channels, min_size)
            assert np.array_equal(top_of(data, rows, channels, min_size), whole[:rows])


def test_the_first_rows_are_decoded_as_by_pillow() -> None:
    data = encoded(smooth(200, 120), "JPEG", quality=92)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))[:70].astype(int)
    assert np.abs(top_of(data, 70) - expected).max() <= 1


def test_only_the_rows_needed_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    heights, decode = [], simplejpeg.decode_jpeg

    def decode_and_note(*args: object, **options: object) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decode(*args, **options)
        heights.append(len(pixels))
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_and_note)
    files = samplings(noisy(200, 60))
    for data in files:
        top_of(data, 50)
    assert heights == [64] * 6 + [200] + [64] * 3  # progressive files have all rows in each scan
    heights.clear()
    cut_off, trailing = files[0][:-2], files[0] + b"\0"
    several_scans = files[0].replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01")
    assert several_scans != files[0]
    for data in (cut_off, trailing, several_scans):
        decode_jpeg(data, 3, None, lambda shape: Rows(shape, 50))
    assert 64 not in heights  # only decoding all of them shows whether they are complete


def test_sizes() -> None:
    assert jpeg_size(encoded(smooth(40, 60), "JPEG")) == (40, 60)
    assert jpeg_size(encoded(smooth(40, 60, 1), "JPEG")) == (40, 60)
    cmyk = encoded(Image.fromarray(smooth(40, 60)).convert("CMYK"), "JPEG")
    for data in (cmyk, encoded(smooth(4, 6), "PNG"), b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0hello, world"):
        assert jpeg_size(data) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_part_of_a_truncated_file_is_not_decoded(share: float) -> None:
    data = encoded(noisy(200, 120), "JPEG")
    short = data[: int(len(data) * share)]
    assert jpeg_size(short) is None or decode_jpeg(short, 3, None, lambda shape: Rows(shape, 9)) is None


def test_damaged_data_are_decoded_as_by_pillow() -> None:
    """Pillow continues after damage, and so does a part, with the same pixels."""
    data = bytearray(encoded(noisy(200, 120), "JPEG"))
    data[len(data) // 4] ^= 0x55
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert not np.array_equal(expected, read_image(encoded(noisy(200, 120), "JPEG"), 3))
    assert np.abs(top_of(bytes(data), 100).astype(int) - expected[:100]).max() <= 1


def test_parts_of_all_sources(tmp_path_factory: pytest.TempPathFactory) -> None:
    pixels, folder = noisy(50, 40), tmp_path_factory.mktemp("images")
    asked = []

    def part(shape: tuple[int, ...]) -> Rows:
        asked.append(shape)
        return Rows(shape, 10)

    for kind in ("PNG", "JPEG"):
        path = folder / f"image.{kind}"
        path.write_bytes(encoded(pixels, kind))
        found, needed = read_part(path, 3, part)
        assert needed == ((50, 40, 3), 10)
        assert np.array_equal(found[:10], read_image(path.read_bytes(), 3)[:10])
    assert read_part(pixels, 3, part)[0] is pixels
    assert asked == [(50, 40, 3)] * 3
    with pytest.raises(BadImageError, match="cannot be opened"):
        read_part(folder / "missing", 3, part)
