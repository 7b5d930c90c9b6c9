from pathlib import Path

import numpy as np
import pytest

from ccpml.data import ImageTable, Source, load_csv, load_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/1.png", "a/x/1.tiff", "a/0.gif", "a-b/1.webp", "c/only.PgM")
    touch(tmp_path, ".hidden/1.png", "b/.1.png", "b/notes.txt", "readme.md", "empty/readme.md", "__MACOSX/._1.png")
    (tmp_path / "c" / "folder.png").mkdir()
    table = load_folder(tmp_path).table
    assert table.class_names == ("a", "a/x", "a-b", "b", "c")
    names = [path.relative_to(tmp_path).as_posix() for path in table.images if isinstance(path, Path)]
    assert names == ["a/0.gif", "a/x/1.tiff", "a-b/1.webp", "b/1.png", "b/2.JPG", "c/only.PgM"]
    assert table.labels.tolist() == [0, 1, 2, 3, 3, 4]
    assert load_folder(tmp_path).split_of_class is None


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, "b/1.png", "c/1.png")
    touch(elsewhere, "1.png")
    links = {"b/up": root, "a": elsewhere, "0": root / "c", "b/self": root / "b", "dead": tmp_path / "none"}
    for name, target in links.items():
        try:
            (root / name).symlink_to(target, target_is_directory=True)
        except OSError:
            pytest.skip("this system makes no symbolic links")
    assert load_folder(root).table.class_names == ("a", "b", "c")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_folder(tmp_path / "missing")
    touch(tmp_path, "a/readme.txt")
    with pytest.raises(ValueError, match=r"no images .*\.jpg"):
        load_folder(tmp_path)
    touch(tmp_path, "a/1.png", "loose.png")
    with pytest.raises(ValueError, match=r"images lie in the folder itself \(such as loose\.png\)"):
        load_folder(tmp_path)


def csv_of(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "set.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{number}.png" for number in range(6)), "sub/a, b.png")
    return tmp_path


def test_csv(images: Path) -> None:
    absolute = images / "5.png"
    text = (
        "Label,path,note,split,role\r\nzwölf,0.png,,train,\r\n\r\n"
        'x,"sub/a, b.png",hm,val,\r\n'
        f"y,{absolute},,test,query\r\ny,1.png,,Test,Gallery\r\n"
    )
    source = load_csv(csv_of(images, text, "utf-8-sig"))
    assert source.table.class_names == ("zwölf", "x", "y")
    assert source.table.images == (images / "0.png", images / "sub/a, b.png", absolute, images / "1.png")
    assert source.table.labels.tolist() == [0, 1, 2, 2]
    assert source.table.roles is not None
    assert source.table.roles.tolist() == ["", "", "query", "gallery"]
    assert source.split_of_class == {"zwölf": "train", "x": "validation", "y": "test"}


def test_csv_with_two_columns(images: Path) -> None:
    source = load_csv(csv_of(images, "path,label\n0.png,b\n1.png,a\n2.png,b"))
    assert source.table.class_names == ("b", "a")
    assert source.table.roles is None
    assert source.split_of_class is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column path and label in an empty line"),
        ("path;label\n", "no column path and label in path;label.*separated by commas"),
        ("label,x\n", "no column path in label,x"),
        ("path,label,path\n", "the column path is there twice"),
        ("path,label\n", "no images below the header"),
        ("path,label\n0.png,a,b\n", "line 2: 3 values for 2 columns"),
        ("path,label\n0.png,a\n\n1.png\n", "line 4: 1 values for 2 columns"),
        ("path,label\n0.png,\n", "line 2: the label is empty"),
        ("path,label\n,a\n", "line 2: the path is empty"),
        ("path,label\n0.png,a\nnone.png,a\n", "line 3: there is no image .*none.png; paths are relative"),
        ("path,label\n0.png,a\n0.png,a\n", r"line 3: .*0.png is listed before \(.*line 2\)"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", "line 3: split must be .* got nothing"),
        ("path,label,split\n0.png,a,dev\n", "line 2: split must be .* got 'dev'"),
        (
            "path,label,split\n0.png,a,train\n1.png,a,test\n",
            r"line 3: class 'a' is in test here and in train before \(.*line 2\)",
        ),
        ("path,label,split,role\n0.png,a,test,both\n", "line 2: role must be query, gallery or empty, got 'both'"),
        ("path,label,split,role\n0.png,a,train,query\n", "line 2: a training image has no role"),
        ("path,label,role\n0.png,a,query\n1.png,a,\n", r"line 3: role is empty, and given elsewhere \(.*line 2\)"),
        ("path,label,role\n0.png,a,\n1.png,a,query\n", "line 2: role is empty"),
        ('path,label\n"0.png,a\n', "line 2: not valid CSV"),
        ('path,label\n"0.png","a\nb"\n1.png\n', "line 4: 1 values"),
    ],
)
def test_csv_errors_name_the_line_and_the_way_out(images: Path, text: str, message: str) -> None:
    file = csv_of(images, text)
    with pytest.raises(ValueError, match=message) as caught:
        load_csv(file)
    assert str(file) in str(caught.value)


def test_csv_that_is_no_text_or_not_there(images: Path) -> None:
    with pytest.raises(ValueError, match="save the file as UTF-8"):
        load_csv(csv_of(images, "path,label\n0.png,zwölf\n", "latin-1"))
    with pytest.raises(ValueError, match="no such file"):
        load_csv(images / "none.csv")


def test_a_source_knows_the_split_of_all_its_classes() -> None:
    table = ImageTable(np.zeros((2, 2, 2), np.uint8), np.array([0, 1]), ("a", "b"))
    Source(table, {"a": "train", "b": "test", "dropped": "test"})
    with pytest.raises(ValueError, match="class 'b' is in none"):
        Source(table, {"a": "train"})


def test_an_image_listed_under_two_spellings_is_one_image(tmp_path):
    touch(tmp_path, "im/0.png")
    (tmp_path / "list.csv").write_text("path,label\nim/0.png,a\nim/../im/0.png,a\n")
    with pytest.raises(ValueError, match="is listed before"):
        load_csv(tmp_path / "list.csv")
