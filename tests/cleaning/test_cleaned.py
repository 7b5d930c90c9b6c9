"""The rules by which pictures are left out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ccpml.cleaning.cleaned import NOT_UTF8, clean, cleaned_csv, find_excluded, relative_path
from ccpml.cleaning.problems import Finding, Problems
from ccpml.cleaning.run import clean_run


def problems(same, exact=None, own=None, findings=()) -> Problems:
    votes = SimpleNamespace(own=np.array([0.5] * len(same) if own is None else own))
    same = np.array(same)
    nothing = np.zeros(len(same), bool)
    return Problems(findings, same if exact is None else np.array(exact), same, votes, nothing, None, (), (), None, 0.9)


def reasons(found, labels, splits, roles=None, **options) -> list[str]:
    return list(clean(found, np.array(labels), splits, roles or [""] * len(labels), **options).reasons)


def test_of_files_with_the_same_bytes_one_stays():
    assert reasons(problems([0, 0, 2, 0]), [0, 0, 1, 0], ["train"] * 4) == ["", "copy", "", "copy"]


def test_the_leader_of_a_group_stays():
    assert reasons(problems([1, 1, 2]), [0, 0, 1], [""] * 3) == ["copy", "", ""]


def test_the_same_picture_stays_unless_asked():
    found = problems([0, 0, 2], exact=[0, 1, 2])
    assert reasons(found, [0, 0, 1], ["test"] * 3) == ["", "", ""]
    assert reasons(found, [0, 0, 1], ["test"] * 3, drop="same") == ["", "copy", ""]


def test_leaks_stay_in_test():
    found = problems([0, 0, 0, 3], exact=[0, 1, 2, 3])
    assert reasons(found, [0, 1, 2, 0], ["train", "test", "validation", "train"]) == ["leak", "", "leak", ""]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([0.6, 0.1, 0], ["", "copy with another label", ""]),
        ([0.3, 0.2, 0], ["copy with another label"] * 2 + [""]),
        ([0, 0, 0], ["copy with another label"] * 2 + [""]),
    ],
)
def test_of_copies_with_different_labels_the_supported_one_stays(own, expected):
    assert reasons(problems([0, 0, 2], own=own), [0, 1, 1], ["train"] * 3) == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([0.1, 0.6, 0], ["leak", "", ""]),
        ([0.3, 0.2, 0], ["leak", "", ""]),  # not clearly
        ([0.4, 0.2, 0], ["leak", "copy with another label", ""]),
        ([0.4, 0.0, 0], ["leak", "copy with another label", ""]),
        ([0.0, 0.0, 0], ["leak", "", ""]),  # nothing is known
    ],
)
def test_a_leak_with_a_doubtful_label_leaves_test_too(own, expected):
    found = problems([0, 0, 2], exact=[0, 1, 2], own=own)
    assert reasons(found, [0, 1, 1], ["train", "test", "test"]) == expected
    reverse = [expected[1], expected[0], expected[2]]
    found = problems([0, 0, 2], exact=[0, 1, 2], own=[own[1], own[0], own[2]])
    assert reasons(found, [1, 0, 1], ["test", "train", "test"]) == reverse


@pytest.mark.parametrize("drop", ["exact", "same"])
@pytest.mark.parametrize("reason", ["no label", "name is not UTF-8"])
def test_no_copy_is_left_out_in_favor_of_one_that_is_not_there(reason, drop):
    found, excluded = problems([0, 0, 0, 3]), [reason, "", "", ""]
    labels = [-1 if reason == "no label" else 0, 0, 0, 1]
    assert reasons(found, labels, [""] * 4, drop=drop, excluded=excluded) == [reason, "", "copy", ""]
    splits = ["test", "train", "train", "train"]
    assert reasons(found, labels, splits, drop=drop, excluded=excluded) == [reason, "", "copy", ""]


def test_what_a_csv_file_cannot_hold():
    paths = [Path("a.png"), Path("\udcff.png"), None, Path("c.png"), Path("d.png")]
    labels = np.array([0, 0, 0, -1, 1])
    assert find_excluded(paths, labels, ["mug", "\udcff"]) == ["", NOT_UTF8, "", "no label", NOT_UTF8]
    assert find_excluded(paths[:2], np.array([-1, -1]), []) == ["", NOT_UTF8]


def test_a_query_may_be_in_the_gallery():
    found = problems([0, 0, 0])
    assert reasons(found, [0, 0, 0], ["test"] * 3, ["query", "gallery", "gallery"]) == ["", "", "copy"]


def test_pictures_without_a_label_leave_out_nothing_with_one():
    assert reasons(problems([0, 0]), [-1, 3], ["", "train"]) == ["", ""]


def test_labels_change_on_request_within_a_split():
    findings = [Finding("label error", 1, 0, 0.99, 1), Finding("label error", 2, 1, 0.98, 2)]
    found, labels = problems([0, 1, 2, 3], findings=findings), np.array([0, 0, 1, 2])
    splits = ["train", "train", "train", "test"]
    assert clean(found, labels, splits, [""] * 4).labels.tolist() == [0, 0, 1, 2]
    assert clean(found, labels, splits, [""] * 4, relabel=True).labels.tolist() == [1, 0, 1, 2]


def test_the_table_has_a_split_only_if_all_have_one():
    splits = {"a": "train", "b": "test"}
    assert cleaned_csv(["1", "2"], ["a", "b"], splits, ["", "query"]) == (
        "path,label,split,role\n1,a,train,\n2,b,test,query\n"
    )
    assert cleaned_csv(["1", "2"], ["a", "c"], splits, ["", ""]) == "path,label\n1,a\n2,c\n"
    assert cleaned_csv(["1"], [""], {}, [""]) == "path\n1\n"


def test_paths_are_right_from_where_the_table_lies(tmp_path):
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"x")
    link = tmp_path / "results"
    link.symlink_to(real)
    assert (link / relative_path(tmp_path / "photos" / "1.png", link)).read_bytes() == b"x"
    (tmp_path / "photos" / "2.png").symlink_to(tmp_path / "photos" / "1.png")
    assert relative_path(tmp_path / "photos" / "2.png", link).endswith("photos/2.png")


def test_copies_that_are_left_out_are_exact_or_the_same_picture(tmp_path: Path) -> None:
    for drop in ("none", "", None, ["exact"]):
        with pytest.raises(ValueError, match=r"^drop: expected exact or same, got "):
            clean_run(tmp_path, "glyphs", tmp_path / "out", drop=drop)  # type: ignore[arg-type]
