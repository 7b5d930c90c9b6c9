from pathlib import Path

import pytest

from ccpml.data import load_csv, load_folder
from ccpml.data.sources.source import name_notes
from ccpml.data.upkeep.check import SkippableImagesError, check_images
from tests.data.image_files import encoded, smooth, touch


def csv_of(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "set.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{number}.png" for number in range(6)), "sub/a, b.png")
    return tmp_path


def test_all_columns(images: Path) -> None:
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


def test_two_columns(images: Path) -> None:
    source = load_csv(csv_of(images, "path,label\n0.png,b\n1.png,a\n2.png,b"))
    assert source.table.class_names == ("b", "a")
    assert source.table.roles is None
    assert source.split_of_class is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected column names path,label.*, got an empty line without path and label"),
        ("path;label\n", "separated by commas, got path;label without path and label"),
        ("label,x\n", "got label,x without path"),
        ("path,label,path\n", "column path appears twice"),
        ("path,label\n", "expected one line for each image below the header"),
        ("path,label\n0.png,a\n\n1.png\n", "line 4: expected 2 values, got 1; add the missing ones"),
        ("path,label\n0.png,a,\n", "line 2: expected 2 values, got 3; put values that contain a comma in quotes"),
        ('"path";"label"\n', "line 1: not valid CSV .*separate values by commas"),
        (",".join("abcdefgh" * 9999) + "\n", "line 1: .{60,260} got a,b,.*… without path and label; correct"),
        ("path,label\n0.png,\n", "line 2: label is empty"),
        ("path,label\n,a\n", "line 2: path is empty"),
        ("path,label\n0.png,a\na\0.png,a\n", r"line 3: not valid CSV \(null character\)"),
        (
            "path,label\nno/0.png,a\nno/1.png,a\n",
            "line 2: image .*no/0.png not found, nor any other; paths are relative",
        ),
        ("path,label\n0.png,a\nsub,a\n", "line 3: image .*sub: expected a file, got a folder"),
        ("path,label\n0.png,a\n0.png,a\n", r"line 3: .*0.png is listed before \(.*line 2\)"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", "line 3: split: expected .* got nothing"),
        ("path,label,split\n0.png,a,dev\n", "line 2: split: expected .* got 'dev'"),
        (
            "path,label,split\n0.png,a,train\n1.png,a,test\n",
            r"line 3: class 'a' is in test, but in train before \(.*line 2\)",
        ),
        ("path,label,split,role\n0.png,a,test,both\n", "line 2: role: expected query, gallery or nothing, got 'both'"),
        (
            "path,label,split,role\n0.png,a,train,query\n",
            "line 2: role of a training image: expected nothing, got query",
        ),
        ("path,label,role\n0.png,a,query\n1.png,a,\n", r"line 3: role is empty, but set in .*line 2"),
        ("path,label,role\n0.png,a,\n1.png,a,query\n", "line 2: role is empty"),
        ('path,label\n"0.png,a\n', "line 2: not valid CSV"),
        (
            "path,label\n" + "x" * 300 + ",a\n",
            r"line 2: image .*: cannot be opened \(File name too long\); choose a sh",
        ),
        (
            "path,label,Splits\n0.png,a,train\n",
            "line 1: column splits: expected split; correct it, or choose another name",
        ),
        ("path,label,spilt,role\n0.png,a,train,\n", "line 1: column spilt: expected split"),
        ("path,label,split,rolle\n0.png,a,test,\n", "line 1: column rolle: expected role"),
        ('path,label\n"0.png","a\nb"\n1.png\n', "line 4: expected 2 values, got 1"),
    ],
)
def test_errors_name_the_line(images: Path, text: str, message: str) -> None:
    file = csv_of(images, text)
    with pytest.raises(ValueError, match=message) as caught:
        load_csv(file)
    assert str(file) in str(caught.value)


def test_images_that_are_not_found_are_listed_with_those_that_cannot_be_read(images: Path) -> None:
    for name in ("0.png", "1.png"):
        (images / name).write_bytes(encoded(smooth(8, 8), "PNG"))
    names = ["0.png", "none.png", "1.png", "2.png"]
    table = load_csv(csv_of(images, "path,label\n" + "".join(f"{name},{name}\n" for name in names))).table
    assert table.class_names == tuple(names)  # so that no class moves to another split
    left, bad = check_images(table, skip_bad=True, progress=False)
    assert left.class_names == ("0.png", "1.png")
    assert [Path(each.name).name for each in bad] == ["none.png", "2.png"]
    with pytest.raises(SkippableImagesError, match=r"2 of 4 images cannot be read"):
        check_images(table, progress=False)


def test_invalid_encoding_and_missing_file(images: Path) -> None:
    with pytest.raises(ValueError, match="save the file as UTF-8"):
        load_csv(csv_of(images, "path,label\n0.png,zwölf\n", "latin-1"))
    with pytest.raises(ValueError, match=r"none\.csv: file not found"):
        load_csv(images / "none.csv")


def test_an_unlabeled_file(images: Path) -> None:
    table = load_csv(csv_of(images, "path\n0.png\n1.png"), labeled=False).table
    assert (table.class_names, len(table)) == (("",), 2)
    source = load_csv(csv_of(images, "path,label,split\n0.png,a,train\n1.png,,test\n2.png,,train"), labeled=False)
    assert source.table.class_names == ("a", "")
    assert source.split_of_class == {"a": "train"}
    with pytest.raises(ValueError, match="line 2: path is empty"):
        load_csv(csv_of(images, "path,label\n,a"), labeled=False)


def test_two_spellings_of_a_path_are_one_image(tmp_path: Path):
    touch(tmp_path, "im/0.png")
    (tmp_path / "list.csv").write_text("path,label\nim/0.png,a\nim/../im/0.png,a\n")
    with pytest.raises(ValueError, match="is listed before"):
        load_csv(tmp_path / "list.csv")


def test_folders_may_be_separated_by_backslashes(images: Path) -> None:
    (images / "below").mkdir()
    (images / "0.png").rename(images / "below" / "0.png")
    (images / "1.png").rename(images / "below\\1.png")
    (images / "table.csv").write_text("path,label\nbelow\\0.png,a\nbelow\\1.png,a\n")
    table = load_csv(images / "table.csv").table
    assert list(table.images) == [images / "below" / "0.png", images / "below\\1.png"]


def test_columns_of_the_user_are_allowed(images: Path) -> None:
    """Also those that are alike to a known one that is there, or to none."""
    header, cells = "path,label,labels,split,splits,price,split_by,rule,notes", "0.png,a,b,test,c,1,2,3,4"
    assert load_csv(csv_of(images, f"{header}\n{cells}\n")).table.class_names == ("a",)
    for name in ("subset", "fold", "split_id", "rule", "label_id", "title", "batch"):
        assert load_csv(csv_of(images, f"path,label,{name}\n0.png,a,train\n")).split_of_class is None


def test_a_misspelt_label_is_named_where_none_is_needed(images: Path) -> None:
    with pytest.raises(ValueError, match="line 1: column lable: expected label"):
        load_csv(csv_of(images, "path,lable\n0.png,a\n"), labeled=False)


def test_labels_that_unicode_writes_in_two_ways_are_one_class(images: Path) -> None:
    text = "path,label\n0.png,caf\u00e9\n1.png,cafe\u0301\n"
    source = load_csv(csv_of(images, text))
    assert source.table.class_names == ("caf\u00e9",)
    assert source.spellings == [["caf\u00e9", "cafe\u0301"]]


def test_paths_may_begin_with_the_home_folder(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(images / "sub"))
    (images / "other").mkdir()
    source = load_csv(csv_of(images / "other", 'path,label\n"~/a, b.png",x\n'))
    assert source.table.images == (images / "sub" / "a, b.png",)


def test_long_reading_shows_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "im/0.png", "im/1.png")
    file = csv_of(tmp_path, "path,label\nim/0.png,a\nim/1.png,b\n")
    load_csv(file)
    load_folder(tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ccpml.data.sources.csv_rows.PATIENCE", 0.0)
    monkeypatch.setattr("ccpml.data.sources.folder.PATIENCE", 0.0)
    load_csv(file)
    assert f"reading {file.name}: 2row" in capsys.readouterr().err
    load_folder(tmp_path)
    assert f"listing {tmp_path.name}: " in capsys.readouterr().err


@pytest.mark.parametrize("column", ["set", "Partition", "fold name"])
def test_a_column_that_names_splits_under_another_name_is_noted(tmp_path: Path, column: str) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(4)))
    table, rows = tmp_path / "a.csv", [f"{number}.png,{number},{('test', 'Train')[number % 2]}" for number in range(4)]
    table.write_text("\n".join([f"path,label,{column},kind", *(f"{row},train" for row in rows), ""]))
    (note,) = name_notes(load_csv(table))
    assert note.startswith(f"column {column.lower()}: is not used, although it names splits; call it split to")
    table.write_text("\n".join([f"path,label,split,{column}", *(f"{row},train" for row in rows), ""]))
    assert not name_notes(load_csv(table))
