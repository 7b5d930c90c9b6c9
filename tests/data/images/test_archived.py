import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ccpml.data import BadImageError, read_image
from ccpml.data.images.archived import ArchivedImage, list_archive, read_archived
from ccpml.data.images.read import read_header
from tests.data.image_files import encoded, smooth


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of a color PNG, a gray PNG and a JPEG."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("a/ü 1.png", encoded(smooth(20, 30), "PNG"))
        file.writestr("b/2.png", encoded(smooth(7, 5, 1), "PNG"))
        file.write(__file__, "b/no image.jpg")
    return tmp_path / "images.zip"


def test_images_are_those_that_were_stored(archive: Path) -> None:
    images = list_archive(archive)
    with zipfile.ZipFile(archive) as file:
        assert [image.name for image in images] == file.namelist()
        assert [read_archived(image) for image in images] == [file.read(name) for name in file.namelist()]
    assert (read_image(images[0], 3) == smooth(20, 30)).all()
    assert (read_image(images[1], 1)[:, :, 0] == smooth(7, 5, 1)).all()
    assert read_header(images[0]) == (20, 30, False, False)
    assert read_header(images[1]) == (7, 5, True, False)


def test_an_image_pickles_without_its_contents(archive: Path) -> None:
    image = list_archive(archive)[0]
    state = pickle.dumps(image)
    assert len(state) < 300 + len(str(archive))
    assert (read_image(pickle.loads(state), 3) == smooth(20, 30)).all()


def test_bad_contents_are_named(archive: Path) -> None:
    with pytest.raises(BadImageError, match=r"b/no image\.jpg: not an image"):
        read_image(list_archive(archive)[2], 3)


@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_damage_is_noticed(archive: Path, change: str) -> None:
    image: ArchivedImage = list_archive(archive)[0]
    data = bytearray(archive.read_bytes())
    data[image.offset + image.size // 2] ^= 1
    if change == "remove":
        archive.unlink()
    else:
        archive.write_bytes(data if change == "flip" else data[: image.offset + 10])
    with pytest.raises(BadImageError, match=r"ü 1\.png: .*(is damaged|cannot be opened)"):
        read_image(image, 3)
    if change != "flip":
        with pytest.raises(ValueError, match=r"images\.zip: (damaged|cannot be opened)"):
            list_archive(archive)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", np.zeros(100).tobytes())
    with pytest.raises(ValueError, match=r"expected uncompressed members, got 1\.png"):
        list_archive(tmp_path / "a.zip")
