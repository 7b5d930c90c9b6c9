"""The generated data set: classes, images and cache file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ccpml.data.sources import glyph_fonts, glyphs
from ccpml.data.sources.glyph_fonts import GlyphClass, draw, faces, glyph_classes
from ccpml.data.sources.glyphs import IMAGES_PER_CLASS, load_glyphs, render_glyph, render_glyphs

FEW = (
    GlyphClass("k", "Latin", "train"),
    GlyphClass("Ж", "Cyrillic", "train"),
    GlyphClass("ش", "Arabic", "validation"),
    GlyphClass("ᖃ", "Canadian", "test"),
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the data set to four classes."""
    monkeypatch.setattr(glyphs, "glyph_classes", lambda: FEW)


class TestClasses:
    def test_there_are_enough_in_each_split(self) -> None:
        classes = glyph_classes()
        count = {split: sum(item.split == split for item in classes) for split in glyph_fonts.SPLITS}
        assert len(classes) >= 600
        assert IMAGES_PER_CLASS >= 12
        for split, share in {"train": 0.55, "validation": 0.15, "test": 0.30}.items():
            assert count[split] / len(classes) == pytest.approx(share, abs=0.05)

    def test_classes_are_distinct_and_grouped_by_split(self) -> None:
        classes = glyph_classes()
        assert len({item.char for item in classes}) == len({item.name for item in classes}) == len(classes)
        order = [glyph_fonts.SPLITS.index(item.split) for item in classes]
        assert order == sorted(order)

    def test_no_script_is_in_two_splits(self) -> None:
        pairs = {(item.script, item.split) for item in glyph_classes()}
        assert len(pairs) == len({script for script, _ in pairs}) >= 12

    def test_all_are_letters_or_digits(self) -> None:
        assert {unicodedata.category(item.char) for item in glyph_classes()} <= {"Lu", "Ll", "Lo", "Nd"}

    def test_only_trusted_faces(self) -> None:
        names = set(faces())
        assert {"DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneral"} <= names
        assert not [name for name in names if name.startswith(("cm", "Last", "STIXNon", "STIXSiz"))]

    def test_well_known_look_alikes_are_one_class(self) -> None:
        chars = {item.char for item in glyph_classes()}
        for alike in ("AΑАᗅ", "OoОΟօօ0", "cCсϲ", "HНΗ", "TТΤ", "ΔᐃΔ"):
            assert len(chars & set(alike)) <= 1, alike

    def test_no_two_classes_look_alike(self) -> None:
        """Shapes are computed here independently, in plain numpy, for every class of every split."""
        chars = [item.char for item in glyph_classes()]
        for face in glyph_fonts.REFERENCE_FACES:
            having = [char for char in chars if ord(char) in faces()[face]]
            rows = np.stack([shape(char, face) for char in having])
            alike = np.triu(np.corrcoef(rows), 1)
            assert alike.max() <= glyph_fonts.LOOKALIKE + 1e-4
            assert len(having) > 100

    def test_without_fonts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(FileNotFoundError, match="matplotlib: not installed"):
            glyph_fonts.font_folder()


def shape(char: str, face: str) -> np.ndarray:
    """Return the ink of a character centered in 32 × 32, its shorter side widened by up to 1.4, blurred."""
    ink = draw(char, face)
    assert ink is not None
    size = np.clip(np.rint(np.array(ink.size) / max(ink.size) * 24 * 1.4), 1, 24).astype(int)
    field = np.zeros((32, 32), dtype=np.uint8)
    left, top = (32 - size) // 2
    field[top : top + size[1], left : left + size[0]] = ink.resize(tuple(size.tolist()), Image.Resampling.BOX)
    return np.asarray(Image.fromarray(field).filter(ImageFilter.GaussianBlur(1.5)), dtype=float).ravel()


class TestImages:
    def test_shape_and_type(self) -> None:
        images = render_glyphs(["k", "ᖃ"])
        assert images.shape == (2 * IMAGES_PER_CLASS, 64, 64)
        assert images.dtype == np.uint8
        assert render_glyphs([]).shape == (0, 64, 64)

    def test_an_image_does_not_depend_on_the_other_classes(self) -> None:
        alone = render_glyphs(["Ж"])
        together = render_glyphs(["k", "Ж"])
        assert alone.tobytes() == together[IMAGES_PER_CLASS:].tobytes()
        assert np.array_equal(render_glyph("Ж", 3), alone[3])

    def test_every_image_differs(self) -> None:
        images = render_glyphs(["א"])
        assert len({image.tobytes() for image in images}) == IMAGES_PER_CLASS

    def test_ink_inside_the_frame(self) -> None:
        """Of a sample of classes, none is blank and none touches the edge."""
        images = render_glyphs([item.char for item in glyph_classes()[::30]])
        assert (images > 64).sum(axis=(1, 2)).min() > 30
        edge = np.concatenate(
            [images[:, [0, -1], :].reshape(len(images), -1), images[:, :, [0, -1]].reshape(len(images), -1)], axis=1
        )
        assert edge.max() < 100

    def test_a_character_without_a_face(self) -> None:
        with pytest.raises(ValueError, match=r"U\+4E00"):
            render_glyph("一", 0)


@pytest.mark.usefixtures("few")
class TestCache:
    def test_contents(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = load_glyphs(tmp_path, progress=False)
        table = data.table
        assert table.class_names[1] == "Cyrillic/U+0416 CYRILLIC CAPITAL LETTER ZHE"
        assert table.name_of(2) == "glyphs[2]"
        assert data.split_of_class == {item.name: item.split for item in FEW}
        assert np.array_equal(table.labels, np.repeat(np.arange(4), IMAGES_PER_CLASS))
        assert np.array_equal(table.images, render_glyphs([item.char for item in FEW]))
        assert capsys.readouterr().err == ""

    def test_progress_goes_to_stderr(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        load_glyphs(tmp_path, progress=True)
        printed = capsys.readouterr()
        assert "drawing glyphs" in printed.err
        assert printed.out == ""

    def test_the_second_time_the_file_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load_glyphs(tmp_path, progress=False)
        monkeypatch.delattr(glyphs, "render_glyphs")
        second = load_glyphs(tmp_path, progress=False)
        assert np.array_equal(first.table.images, second.table.images)
        assert np.array_equal(first.table.labels, second.table.labels)
        assert first.table.class_names == second.table.class_names
        assert first.split_of_class == second.split_of_class

    def test_the_file_needs_no_pickle(self, tmp_path: Path) -> None:
        load_glyphs(tmp_path, progress=False)
        (path,) = tmp_path.iterdir()
        with np.load(path, allow_pickle=False) as file:
            assert {key: file[key].dtype.kind for key in file} == {
                "images": "u",
                "labels": "i",
                "names": "U",
                "splits": "U",
            }

    @pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped", "other arrays", "array"])
    def test_damaged_file_is_replaced(self, tmp_path: Path, damage: str) -> None:
        load_glyphs(tmp_path, progress=False)
        (path,) = tmp_path.iterdir()
        with np.load(path) as file:
            whole = dict(file)
        data = bytearray(path.read_bytes())
        if damage == "other arrays":
            np.savez(path, **{**whole, "images": whole["images"][:-1]})
        elif damage == "array":
            with path.open("wb") as file:
                np.save(file, whole["images"])
        else:
            data[5000] ^= 255
            kinds = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"not a zip", "flipped": data}
            path.write_bytes(kinds[damage])
        again = load_glyphs(tmp_path, progress=False)
        assert np.array_equal(again.table.images, whole["images"])
        with np.load(path) as file:
            assert np.array_equal(file["images"], whole["images"])

    def test_interruption_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(file: object, **arrays: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_glyphs(tmp_path, progress=False)
        assert not list(tmp_path.iterdir())

    def test_unwritable_folder_warns(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.warns(UserWarning, match="glyphs cannot be cached.*CCPML_CACHE"):
            data = load_glyphs(tmp_path / "file" / "cache", progress=False)
        assert len(data.table) == 4 * IMAGES_PER_CLASS

    def test_folder_from_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CCPML_CACHE", str(tmp_path / "here"))
        load_glyphs(progress=False)
        assert len(list((tmp_path / "here").iterdir())) == 1

    def test_another_recipe_or_font_is_another_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load_glyphs(tmp_path, progress=False)
        monkeypatch.setattr(glyphs, "RECIPE", glyphs.RECIPE + 1)
        load_glyphs(tmp_path, progress=False)
        monkeypatch.setattr(glyphs, "pillow_version", "0.0")
        load_glyphs(tmp_path, progress=False)
        assert len(list(tmp_path.iterdir())) == 3
