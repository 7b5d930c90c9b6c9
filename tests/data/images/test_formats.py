import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

from ccpml.data import load_folder, read_image
from ccpml.data.images import formats
from ccpml.data.images.read import BadImageError
from tests.data.image_files import encoded, smooth, touch


@pytest.fixture
def no_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither plugin for HEIF can be imported."""
    for name in ("pi_heif", "pillow_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    formats.pillow_formats.cache_clear()
    formats.image_suffixes.cache_clear()
    yield
    formats.pillow_formats.cache_clear()
    formats.image_suffixes.cache_clear()


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.AVIF")
    (tmp_path / "a/1.AVIF").write_bytes(encoded(smooth(40, 60), "AVIF", quality=95))
    [image] = load_folder(tmp_path).table.images
    assert np.abs(read_image(image, 3).astype(int) - smooth(40, 60)).mean() < 3


def test_the_first_picture_of_a_multi_picture_file_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.MPO")
    first, second = (Image.fromarray(smooth(40, 60)[::step]) for step in (1, -1))
    first.save(tmp_path / "a/1.MPO", "MPO", save_all=True, append_images=[second], quality=95)
    [image] = load_folder(tmp_path).table.images
    assert np.abs(read_image(image, 3).astype(int) - smooth(40, 60)).mean() < 3


@pytest.mark.usefixtures("no_plugin")
def test_heic_without_a_plugin_is_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.heic", "a/2.png")
    assert len(load_folder(tmp_path).table) == 1
    assert ".heic" not in formats.image_suffixes()


@pytest.mark.usefixtures("no_plugin")
def test_heic_is_told_by_its_contents(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(40)
    with pytest.raises(BadImageError, match=r"^HEIC, which is read after pip install pi-heif"):
        read_image(heic, 3)
    assert formats.unread_suffixes()[".heic"] == "pip install pi-heif"


@pytest.mark.usefixtures("no_plugin")
def test_heic_with_a_plugin_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that reads our own format stands for the real one, which is no dependency."""
    Image.init()

    def register() -> None:
        Image.register_open(
            "HEIF", lambda file, name: Image.new("RGB", (7, 5), "red"), lambda head: head[:4] == b"heif"
        )

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    touch(tmp_path, "a/1.HEIC")
    (tmp_path / "a/1.HEIC").write_bytes(b"heif")
    try:
        [image] = load_folder(tmp_path).table.images
        assert read_image(image, 3).tolist() == [[[255, 0, 0]] * 7] * 5
        (tmp_path / "a/1.HEIC").write_bytes(b"text")
        with pytest.raises(BadImageError, match=r"1\.HEIC: not an image"):
            read_image(image, 3)
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
