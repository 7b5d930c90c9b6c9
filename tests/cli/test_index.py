"""``ccpml index``: from pictures to an index, up to date, verified."""

import errno
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ccpml.cli import main
from ccpml.cli.common.hints import describe
from ccpml.runs import load_run
from ccpml.serving import Index
from ccpml.serving.storage.store import Store


@pytest.fixture
def photos(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "photos")


def call(capsys, *arguments):
    """The exit code, standard output, and the last line of standard error."""
    capsys.readouterr()
    code = main(["index", *map(str, arguments)])
    streams = capsys.readouterr()
    return code, streams.out.strip(), streams.err.splitlines()[-1].strip()


def test_an_index_holds_the_embeddings_that_embed_writes(run, photos, tmp_path, capsys):
    path = tmp_path / "shop.index"
    assert call(capsys, run, photos, "-o", path)[:2] == (0, f"{path}: 60 pictures")
    assert main(["embed", str(run), f"folder:{photos}", "-o", str(tmp_path / "all.npz")]) == 0
    with np.load(tmp_path / "all.npz") as file, Index.open(path) as index:
        expected = dict(zip(file["paths"].tolist(), file["embeddings"], strict=True))
        items = index.items()
        assert {item.path for item in items} == set(expected)
        assert {item.label for item in items} == set(file["class_names"].tolist())
        vectors = index.vectors([item.id for item in items])
        assert np.abs(vectors - np.stack([expected[item.path] for item in items])).max() < 1e-6
    message = f"{path}: 60 pictures, complete: rows, thumbnails and counts are as they were written"
    assert call(capsys, "--verify", path)[:2] == (0, message)


def test_sync_verify_and_compact(run, photos, tmp_path, capsys):
    path = tmp_path / "shop.index"
    assert call(capsys, run, f"folder:{photos}", "-o", path, "--sync")[0] == 0  # creates it
    images = sorted(photos.rglob("*.png"))
    images[0].unlink()
    images[1].write_bytes(b"none")
    (images[2].parent / "new.png").write_bytes(images[2].read_bytes())
    code, out, error = call(capsys, run, photos, "-o", path, "--sync")
    assert (code, out) == (0, f"{path}: 59 pictures (1 added, 0 changed, 0 renamed, 2 removed, 58 unchanged)")
    assert error == f"{images[1]}: not an image of a known format, or damaged header"
    assert call(capsys, "--compact", path)[1] == f"{path}: 59 pictures; rows of 2 removed ones dropped"
    rows = path / "rows.2.f32"
    content = bytearray(rows.read_bytes())
    content[0] ^= 1
    rows.write_bytes(content)
    code, out, _ = call(capsys, "--verify", path)
    assert code == 1
    assert "1 problem:\n  item 3 (" in out
    assert f"row 0 differs from its checksum\n`ccpml index <run> <data> -o {path} --sync` embeds damaged" in out
    assert "58 unchanged, 1 mended)" in call(capsys, run, photos, "-o", path, "--sync")[1]
    assert call(capsys, "--verify", path)[0] == 0


def test_a_folder_that_was_moved_is_not_listed_twice_and_what_is_left_of_it_can_be_removed(
    run, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, run, "photos", "-o", "x.index")[0] == 0
    photos.rename(tmp_path / "moved")
    sorted((tmp_path / "moved").rglob("*.png"))[0].unlink()
    code, out, error = call(capsys, run, "photos", "-o", "x.index", "--sync")
    advice = "; x.index has 60 pictures of it: pass the new place if it has moved, or --remove to remove them"
    assert (code, error.startswith("ccpml: error: photos: not found; "), error.endswith(advice)) == (2, True, True)
    code, out, error = call(capsys, run, "moved", "-o", "x.index", "--sync")
    assert (code, out) == (0, "x.index: 60 pictures (0 added, 0 changed, 59 renamed, 0 removed, 0 unchanged)")
    command = f"ccpml index --remove folder:{photos} -o x.index"
    lost = f"1 picture of folder:{photos}, which is not found; restore it, or remove them"
    assert error == f"note: x.index: has {lost}: `{command}`"
    removed = f"x.index: 59 pictures; 1 of folder:{photos} removed"
    assert call(capsys, *command.split()[2:])[:2] == (0, removed)
    code, _, error = call(capsys, "--remove", "photos", "-o", "x.index")
    expected = f"--remove: expected a source of x.index (folder:{tmp_path / 'moved'} with 59 pictures), got photos"
    assert (code, error) == (2, f"ccpml: error: {expected}")
    assert call(capsys, "--remove", "moved", "-o", "x.index")[1].startswith("x.index: 0 pictures; 59 of folder:")


def test_an_index_in_its_own_folder_is_not_listed_as_ignored(run, photos, capsys):
    path = photos / "x.index"
    (photos / "notes.txt").touch()
    assert call(capsys, run, photos, "-o", path)[0] == 0
    capsys.readouterr()
    assert main(["index", str(run), str(photos), "-o", str(path), "--sync"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert lines == [f"{photos}: ignored 1 file with suffix .txt (notes.txt)"]


def test_unreadable_images_are_listed_in_the_index(run, tmp_path, capsys):
    photos, path = tmp_path / "photos", tmp_path / "x.index"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number:02d}.png").write_bytes(b"none")
    code, _, error = call(capsys, run, photos, "-o", path)
    assert (code, error) == (1, "and 2 more")
    assert not path.exists()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "good.png")
    code, out, error = call(capsys, run, photos, "-o", path)
    assert (code, out) == (0, f"{path}: 1 picture")
    assert error == f"and 2 more; all are listed in {path / 'unreadable.txt'}"
    assert len((path / "unreadable.txt").read_text().splitlines()) == 12


def test_an_interrupted_build_says_how_to_resume(run, photos, tmp_path, capsys, monkeypatch):
    path, batches = tmp_path / "x.index", []

    def interrupt(self, new, source):
        batches.append(len(new))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return append(self, new, source)

    from ccpml.serving.writer import Writer

    append = Writer.append
    monkeypatch.setattr("ccpml.serving.embedding._PICTURES", 16)
    monkeypatch.setattr(Writer, "append", interrupt)
    code, _, error = call(capsys, run, photos, "-o", path)
    arguments = f"{run} {photos} -o {path} --sync"
    assert (code, error) == (130, f"ccpml: interrupted; what was added is kept; resume with: ccpml index {arguments}")
    monkeypatch.setattr(Writer, "append", append)
    out = call(capsys, *arguments.split())[1]
    assert out == f"{path}: 60 pictures (28 added, 0 changed, 0 renamed, 0 removed, 32 unchanged)"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("can't start new thread"), MemoryError(), OSError(errno.EMFILE, "Too many open files", "a.png")],
    ids=lambda error: type(error).__name__,
)
def test_a_build_that_the_system_refuses_says_how_to_resume(run, photos, tmp_path, capsys, monkeypatch, error):
    def refuse(*_):
        raise error

    sentence = describe(error)
    monkeypatch.setattr("ccpml.serving.embedding.in_threads", refuse)
    code, _, said = call(capsys, run, photos, "-o", tmp_path / "x.index")
    assert code == 1
    assert said.startswith(f"ccpml: error: {sentence}; then resume with: ccpml index {run} {photos} -o ")
    assert said.endswith(" --sync")


def test_an_index_that_is_there_is_brought_up_to_date_if_asked(run, photos, tmp_path, capsys):
    call(capsys, run, photos, "-o", tmp_path / "x.index")
    code, _, error = call(capsys, run, photos, "-o", tmp_path / "x.index")
    way_out = "--sync brings it up to date, or choose another name"
    assert (code, error) == (2, f"ccpml: error: --output: {tmp_path}/x.index already exists; {way_out}")


def test_an_index_that_another_process_makes_meanwhile_is_left_to_it(run, photos, tmp_path, capsys, monkeypatch):
    path, create = tmp_path / "x.index", Index.create

    def come_late(place, embedder):
        create(place, embedder).close()
        return create(place, embedder)

    monkeypatch.setattr(Index, "create", come_late)
    code, _, error = call(capsys, run, photos, "-o", path)
    way_out = f"once that is done, bring it up to date: `ccpml index {run} {photos} -o {path} --sync`"
    assert (code, error) == (2, f"ccpml: error: {path}: another process has made it meanwhile; {way_out}")
    monkeypatch.setattr(Index, "create", create)
    assert call(capsys, run, photos, "-o", path, "--sync")[0] == 0


def test_an_index_that_appears_while_it_is_written_is_not_replaced(run, tmp_path, monkeypatch):
    path, write = tmp_path / "x.index", Store.create
    embedder = load_run(run)

    def come_first(file, meta):
        monkeypatch.setattr(Store, "create", write)
        Index.create(path, embedder).close()
        return write(file, meta)

    monkeypatch.setattr(Store, "create", come_first)
    with pytest.raises(FileExistsError, match="already exists"):
        Index.create(path, embedder)
    Index.open(path).close()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("{run} {photos} -o {photos}", 2, "--output: {photos} already exists and is no index; choose another name"),
        (
            "{run} gone/**/*.jpg -o x.index",
            2,
            "gone/**/*.jpg: gone: folder not found; expected the folder of the pattern",
        ),
        ("{run} {photos} -o {photos} --sync", 2, "{photos}: not an index (index.sqlite not found)"),
        ("{run} {photos}", 2, "--output: expected the directory of the index"),
        ("{run}", 2, "expected a run and data"),
        ("", 2, "expected a run and data"),
        ("{photos} {photos} -o x.index", 2, "{photos}: not a run directory"),
        ("{run} none -o x.index", 2, "none: not found; expected a folder, an image, a CSV file"),
        ("--verify none.index", 2, "none.index: not an index (not found); `ccpml index"),
        ("--verify qdrant://localhost:6333/a", 2, "of a server; pass --store qdrant://localhost:6333/a"),
        (
            "{run} {photos} -o qdrants://host/a",
            2,
            "qdrants://host/a: expected the directory of an index, got the address",
        ),
        ("--verify a --compact b", 2, "--verify: expected an index alone"),
        ("--remove a", 2, "--output: expected the directory of the index"),
        ("{run} {photos} --remove a -o b", 2, "--remove: expected a source and the index alone"),
        ("--remove a -o none.index", 2, "none.index: not an index (not found)"),
        ("--compact a -o b", 2, "--compact: expected an index alone"),
        ("{run} {photos} -o x.index --synch", 2, "did you mean --sync?"),
    ],
)
def test_wrong_usage_is_one_sentence(run, photos, capsys, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    values = {"run": run, "photos": photos}
    found, out, error = call(capsys, *(word.format(**values) for word in arguments.split()))
    assert (found, out) == (code, "")
    assert error.startswith("ccpml: error: ")
    assert sentence.format(**values) in error
    assert not os.path.lexists("x.index")


@pytest.mark.parametrize("name", ["photos/**/*.png", "one.png"])
def test_a_source_is_removed_by_the_name_that_it_was_made_with(run, photos, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(photos.rglob("*.png")), "one.png")
    assert call(capsys, run, name, "-o", "x.index")[0] == 0
    assert call(capsys, "--remove", name, "-o", "x.index")[:2] == (
        0,
        f"x.index: 0 pictures; {60 if '*' in name else 1} of glob:{tmp_path}/{name} removed",
    )
