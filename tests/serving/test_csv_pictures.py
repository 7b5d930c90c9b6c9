from pathlib import Path

import pytest

from ccpml.data.images.read import BadImageError
from ccpml.serving.csv_pictures import read_csv_pictures
from ccpml.serving.pictures import read_picture


def write(tmp_path, text):
    file = tmp_path / "shop.csv"
    file.write_text(text, encoding="utf-8-sig")
    return file


def test_types_of_columns(tmp_path):
    text = "Path,LABEL,count,price,sold,code,note,big\n"
    text += "a.jpg,mug,3,7.50,true,007,4,12345678901234567890123\n"
    text += '/b.jpg,"cup, blue",-4,1.0e2,FALSE,12,four,1\n'
    text += "c.jpg,,,,,,,\n"
    pictures, notes = read_csv_pictures(write(tmp_path, text))
    assert [picture.path for picture in pictures] == [tmp_path / "a.jpg", Path("/b.jpg"), tmp_path / "c.jpg"]
    assert [picture.label for picture in pictures] == ["mug", "cup, blue", ""]
    assert pictures[0].metadata == {
        "count": 3,
        "price": 7.5,
        "sold": True,
        "code": "007",
        "note": "4",
        "big": "12345678901234567890123",
    }
    assert pictures[1].metadata == {
        "count": -4,
        "price": 100.0,
        "sold": False,
        "code": "12",
        "note": "four",
        "big": "1",
    }
    assert set(pictures[2].metadata.values()) == {None}
    file = tmp_path / "shop.csv"
    assert notes == [
        f"{file}: column note: expected numbers only or text only, got 4 (line 2) and four (line 3); all are kept as "
        "text",
        f"{file}: column big: expected numbers of 64 bits only or text only, got 1 (line 3) and "
        "12345678901234567890123 (line 2); all are kept as text",
    ]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["12E4", "5541"], ["12E4", "5541"]),  # numbers of articles
        (["12E4", "3e7"], ["12E4", "3e7"]),
        (["1e-05", "1e+20", "3"], [1e-05, 1e20, 3.0]),  # as pandas writes them
        (["1.20E+05", "1.2e5", ".5e1"], [1.2e5, 1.2e5, 5.0]),
    ],
)
def test_codes_are_no_numbers(tmp_path, cells, values):
    rows = "".join(f"{number}.jpg,{cell}\n" for number, cell in enumerate(cells))
    pictures, notes = read_csv_pictures(write(tmp_path, f"path,code\n{rows}"))
    assert [picture.metadata["code"] for picture in pictures] == values
    assert bool(notes) == ("5541" in cells)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected column names path"),
        (
            "file,label\na,b\n",
            r"expected column names path\[,label\]\[,more\] separated by commas, got file,label",
        ),
        ("path,price,price\na,1,2\n", "column price appears twice; remove one"),
        ("path,label\n", "expected one line for each image below the header, got none"),
        ("path,label\na\n", "line 2: expected 2 values, got 1"),
        ("path,label\n,b\n", "line 2: path is empty"),
        ("path,label\na,b\na\0,b\n", r"line 3: not valid CSV \(null character\)"),
        ("path\na.jpg\n\na.jpg\n", r"line 4: \S+/a.jpg is listed before \(line 2\)"),
        ("path\na.jpg\nsub/../a.jpg\n", r"line 3: \S+/a.jpg is listed before \(line 2\)"),
        ('path\n"a\n', "not valid CSV"),
        ("path\nb.jpg\na\0.jpg\n", r"line 3: not valid CSV \(null character\)"),
    ],
)
def test_invalid_files_are_named_with_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"shop.csv.*{message}"):
        read_csv_pictures(write(tmp_path, text))


def test_columns_without_a_name_are_left_out_as_the_index_of_pandas(tmp_path):
    file = write(tmp_path, ",path,price,\n0,a.jpg,7,x\n1,b.jpg,8,y\n")
    pictures, notes = read_csv_pictures(file)
    assert [picture.metadata for picture in pictures] == [{"price": 7}, {"price": 8}]
    assert notes == [f"{file}, line 1: column 1: has no name; left out"]


def test_folders_may_be_separated_by_backslashes(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "photos\\b.jpg").touch()
    pictures, _ = read_csv_pictures(write(tmp_path, "path\nphotos\\a.jpg\nphotos\\b.jpg\nphotos\\none.jpg\n"))
    names = ["photos/a.jpg", "photos\\b.jpg", "photos\\none.jpg"]
    assert [picture.path for picture in pictures] == [tmp_path / name for name in names]


def test_other_encodings_are_refused(tmp_path):
    file = tmp_path / "shop.csv"
    file.write_bytes(b"path\n\xff.jpg\n")
    with pytest.raises(ValueError, match="not UTF-8; save the file as UTF-8"):
        read_csv_pictures(file)


def test_an_almost_known_column_is_metadata_and_noted(tmp_path):
    pictures, notes = read_csv_pictures(write(tmp_path, "path,Lable\na.jpg,mug\n"))
    assert (pictures[0].label, pictures[0].metadata) == ("", {"Lable": "mug"})
    assert notes == [f"{tmp_path / 'shop.csv'}, line 1: column Lable: is metadata; call it label if it is the label"]
    assert read_csv_pictures(write(tmp_path, "path,label,labels\na.jpg,mug,x\n"))[1] == []


def test_pictures_that_cannot_be_read_are_named_with_their_lines(tmp_path):
    file = write(tmp_path, f"path\ngone.jpg\n{'x' * 300}.jpg\n\nempty.jpg\n")
    (tmp_path / "empty.jpg").touch()
    for picture, line in zip(read_csv_pictures(file)[0], (2, 3, 5), strict=True):
        with pytest.raises(BadImageError, match=rf"jpg \({file}, line {line}\): "):
            read_picture(picture)


def test_labels_that_unicode_writes_in_two_ways_are_one(tmp_path):
    pictures, _ = read_csv_pictures(write(tmp_path, "path,label\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\n"))
    assert {picture.label for picture in pictures} == {"caf\u00e9"}
