"""Pictures of an index that nothing installed here reads, as HEIC without a plugin: they stay."""

import numpy as np
import pytest
from PIL import Image

from ccpml.data.images import formats
from ccpml.serving import Index, find_pictures
from tests.serving.embedders import ColorEmbedder


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        file = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(file)
    return tmp_path / "photos"


@pytest.fixture
def embedder():
    return ColorEmbedder()


@pytest.mark.parametrize("kind", ["folder", "pattern"])
def test_pictures_that_cannot_be_read_here_stay(kind, photos, embedder, tmp_path, monkeypatch):
    """As HEIC, in an environment without a plugin for it."""
    data = str(photos) if kind == "folder" else f"{photos}/**/*"
    monkeypatch.setattr("ccpml.data.images.formats._SUFFIXES", (".png", ".heic"))
    formats.image_suffixes.cache_clear()
    heic = photos / "class0" / "0.heic"
    (photos / "class0" / "0.png").rename(heic)
    with Index.create(tmp_path / "h.index", embedder) as index:
        index.sync(data)
        monkeypatch.undo()
        monkeypatch.setattr("ccpml.data.images.formats.pillow_formats", lambda: formats._FORMATS)
        formats.image_suffixes.cache_clear()
        for _ in range(2):
            done = index.sync(data)
            assert (done.removed, done.unchanged, done.kept, len(index)) == (0, 5, 1, 6)
            assert str(done).endswith(", 5 unchanged, 1 kept, which cannot be read now")
            (error,) = done.skipped
            assert str(error) == f"{heic}: stays, as it cannot be read here: pip install pi-heif"
        heic.unlink()
        assert (index.sync(data).removed, len(index)) == (1, 5)
    monkeypatch.undo()
    formats.image_suffixes.cache_clear()


def test_a_table_says_which_pictures_that_cannot_be_read_here_stay(photos, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("ccpml.data.images.formats.pillow_formats", lambda: formats._FORMATS)
    heic = [photos / "class0" / f"{number}.heic" for number in (0, 2)]
    for file in heic:
        file.with_suffix(".png").rename(file)
    files = sorted(photos.glob("*/*"))
    table = tmp_path / "list.csv"
    table.write_text("path\n" + "\n".join(map(str, files)))
    with Index.create(tmp_path / "t.index", embedder) as index:
        index.sync(str(table))  # their contents are PNG so far
        assert len(index) == 6
        heic[0].write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
        table.write_text("path\n" + "\n".join(str(file) for file in files if file != heic[1]))
        done = index.sync(str(table))
        (error,) = done.skipped
        assert "HEIC, which is read after pip install pi-heif" in str(error)
        assert done.removed == 1  # that which is not in the table any more
        assert sorted(item.path for item in index.items()) == sorted(str(file) for file in files if file != heic[1])


@pytest.mark.parametrize(
    ("pointer", "command"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1052136\n", "git lfs pull"),
        ("/annex/objects/SHA256E-s9--4d.jpg\n", "git annex get"),
    ],
)
def test_pictures_that_git_has_not_fetched_stay(photos, embedder, tmp_path, pointer, command):
    with Index.create(tmp_path / "g.index", embedder) as index:
        index.sync(photos.as_posix())
        before = index.items()
        for file in photos.glob("*/*"):
            file.write_text(pointer)
        done = index.sync(photos.as_posix())
        assert (done.removed, done.kept, len(done.skipped), index.items()) == (0, 6, 6, before)
        assert command in str(done.skipped[0])


def named_by(kind, photos):
    """The pictures of a folder as a name of data of each kind."""
    table = photos.with_name("t.csv")
    table.write_text("path\n" + "\n".join(map(str, sorted(photos.glob("*/*")))))
    return {"folder": str(photos), "pattern": f"{photos}/*/*", "table": str(table)}[kind]


@pytest.mark.parametrize("kind", ["folder", "pattern", "table"])
def test_pictures_whose_links_lead_nowhere_for_now_stay(photos, embedder, tmp_path, kind):
    """As git-annex leaves them, whose files are links into its store."""
    store = tmp_path / "store"
    store.mkdir()
    files = sorted(photos.glob("*/*"))
    for number, file in enumerate(files):
        file.rename(store / str(number))
        file.symlink_to(store / str(number))
    data = named_by(kind, photos)
    with Index.create(tmp_path / "g.index", embedder) as index:
        index.sync(data)
        before = index.items()
        (store / "0").rename(tmp_path / "dropped")
        done = index.sync(data)
        assert (done.removed, done.kept, len(done.skipped), index.items()) == (0, 1, 1, before)
        assert str(files[0]) in str(done.skipped[0])
        (tmp_path / "dropped").rename(store / "0")
        assert (index.sync(data).unchanged, index.items()) == (6, before)
        files[0].unlink()
        assert (index.sync(data).removed, len(index)) == (1, 5)


@pytest.mark.parametrize("kind", ["folder", "pattern", "table"])
def test_pictures_below_a_link_to_a_disk_that_is_away_stay(photos, embedder, tmp_path, kind):
    files = sorted(photos.glob("*/*"))
    away = files[0].parent
    away.rename(tmp_path / "disk")
    away.symlink_to(tmp_path / "disk")
    data = named_by(kind, photos)
    with Index.create(tmp_path / "g.index", embedder) as index:
        index.sync(data)
        before = index.items()
        (tmp_path / "disk").rename(tmp_path / "unplugged")
        done = index.sync(data)
        count = sum(file.parent == away for file in files)
        assert (done.removed, done.kept, len(done.skipped), index.items()) == (0, count, count, before)
        away.unlink()
        assert index.sync(data).removed == (0 if kind == "table" else count)


def test_broken_links_that_a_pattern_matches_are_counted(photos):
    for name in ("a.png", "b.png"):
        (photos / name).symlink_to("nowhere")
    assert [each.kind for each in find_pictures(f"{photos}/**/*.png").ignored] == ["broken link{s}"] * 2
    with pytest.raises(ValueError, match=r"no images found; .*, got 2 broken links \(.*a\.png, .*b\.png\); 0 folders"):
        find_pictures(f"{photos}/?.png")
