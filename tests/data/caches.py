"""Folders of images and their caches."""

from pathlib import Path

from PIL import Image

from ccpml.data import load_folder
from ccpml.data.images.cache import cache_folder, pack_source, use_cache
from ccpml.data.sources.source import Source
from ccpml.data_name import DataName
from tests.data.image_files import encoded, smooth

NAME = DataName("folder", "photos")


def fill(folder: Path, count: int = 6) -> Path:
    """Fill a folder with two classes of images of all kinds."""
    files = [
        encoded(smooth(90, 120), "JPEG", quality=95),
        encoded(smooth(300, 61, 1), "PNG"),
        encoded(Image.fromarray(smooth(80, 70)).convert("CMYK"), "JPEG", quality=95),
        encoded(smooth(100, 1), "PNG"),
        encoded(smooth(20, 90), "PNG"),
        encoded(smooth(64, 64), "BMP"),
    ]
    names = ["a/1.jpg", "a/ü 2.png", "b/3.jpeg", "b/thin.png", "b/low,.png", "b/6.BMP"]
    for number in range(count):
        path = folder / names[number % 6].replace("/", f"/{number // 6 or ''}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % 6])
    return folder


def packed(folder: Path, side: int = 32) -> Source:
    pack_source(load_folder(folder), NAME, side, progress=False)
    return use_cache(load_folder(folder), NAME)


def content(folder: Path) -> dict[str, bytes]:
    home = cache_folder(folder, NAME)
    return {path.name: path.read_bytes() for path in sorted(home.iterdir())}
