"""Images of 16 bits that are read as dark, as they hold 10 or 12."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.cli import main
from ccpml.data.upkeep.depth import depth_note
from ccpml.runs.images import read_facts
from ccpml.runs.settings import Settings
from tests.data.image_files import png_16_bit_rgb
from tests.toy import toy_folder


def save(path: Path, white: int, dtype: type = np.uint16) -> Path:
    Image.fromarray(np.linspace(0, white, 64).reshape(8, 8).astype(dtype)).save(path)
    return path


def test_colors_of_16_bits_are_looked_at_too(tmp_path):
    (tmp_path / "a.png").write_bytes(png_16_bit_rgb(4095))
    assert "whose brightest pixel is 15" in depth_note([tmp_path / "a.png"])
    assert depth_note([png_16_bit_rgb(40000)]) == ""


@pytest.mark.parametrize(
    ("name", "white", "dtype", "brightest"),
    [
        ("a.png", 4095, np.uint16, 16),
        ("a.tif", 1023, np.uint16, 4),
        ("a.tif", 255, np.int32, 1),
        ("a.png", 16383, np.uint16, 64),
        ("a.png", 65535, np.uint16, None),
        ("a.tif", 30000, np.uint16, None),
        ("a.png", 12, np.uint8, None),
    ],
)
def test_a_note_names_the_brightest_pixel(tmp_path, name, white, dtype, brightest):
    file = save(tmp_path / name, white, dtype)
    note = depth_note([file] * 3)
    if brightest is None:
        assert note == ""
    else:
        expected = f"images of 16 bits: 3 of 3 images looked at, whose brightest pixel is {brightest} of 255"
        assert note.startswith(expected)
    assert depth_note([file.read_bytes()]) == note.replace("3 of 3 images", "1 of 1 image")


def test_one_bright_image_is_enough_and_images_that_cannot_be_read_are_passed_over(tmp_path):
    dark, bright = save(tmp_path / "dark.png", 1023), save(tmp_path / "bright.png", 65535)
    broken = tmp_path / "broken.png"
    broken.write_bytes(dark.read_bytes()[:60])
    assert depth_note([dark, bright, dark]) == ""
    assert "2 of 3 images looked at" in depth_note([tmp_path / "none.png", dark, np.zeros((4, 4), np.uint8), broken])
    assert depth_note([]) == ""
    broken.write_bytes(bright.read_bytes()[:60])
    assert depth_note([broken, tmp_path / "none.png"]) == ""


def test_the_check_and_the_training_tell_it(tmp_path, capsys):
    folder = toy_folder(tmp_path / "toy", per_class=2)
    for file in folder.glob("**/*.png"):
        pixels = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 4
        Image.fromarray(pixels).save(file)
    assert main(["data", "check", f"folder:{folder}"]) == 0
    captured = capsys.readouterr()
    assert "whose brightest pixel is " in captured.out + captured.err
    assert "whose brightest pixel is " in read_facts(Settings(data=f"folder:{folder}")).dark
