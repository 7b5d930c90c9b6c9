"""Which classes runs are compared on, what is found, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccpml.comparison.compare import compare_runs
from ccpml.comparison.text import text_of
from ccpml.comparison.unseen import NoCommonClassesError
from ccpml.files import write_arrays
from ccpml.retrieval import evaluate
from ccpml.runs.directory import RunDirectory
from tests.comparison.runs import make_run

NAMES = [f"class{number:02d}" for number in range(12)]


def scores_of(path: Path, names: list[str]) -> dict[str, float]:
    """The scores of the stored embeddings of some classes."""
    with np.load(path / "embeddings" / "test.npz") as file:
        rows = np.isin(file["class_names"][file["labels"]], names)
        return evaluate(file["embeddings"][rows], file["labels"][rows]).as_dict()


def test_runs_on_the_same_classes(tmp_path):
    """The order of the classes, and where the images were, do not count."""
    first = make_run(tmp_path / "a", NAMES, noise=1.2)
    second = make_run(tmp_path / "b", NAMES[::-1], noise=0.4, folder="elsewhere", method="plain")
    found = compare_runs([first, second])
    assert (found.classes, found.queries, found.skipped, found.notes) == (12, 48, 0, [])
    for run, path in zip(found.runs, (first, second), strict=True):
        expected = scores_of(path, NAMES)
        assert {name: each.value for name, each in run.scores.items()} == pytest.approx(
            {name: expected[name] for name in run.scores}
        )
    [versus] = found.versus
    assert versus.differences["map_at_r"].verdict == "better"
    assert versus.won + versus.lost + versus.equal == 48
    assert sum(each.queries for each in versus.classes) == 48
    mean = np.mean([each.change for each in versus.classes])
    assert mean == pytest.approx(versus.differences["map_at_r"].value)
    assert [each.change for each in versus.classes] == sorted((each.change for each in versus.classes), reverse=True)
    won = versus.queries_won
    assert [each.change for each in won] == sorted((each.change for each in won), reverse=True)
    assert len({each.class_name for each in won}) == len(won) <= 6
    assert all(found.embedded[0].paths[each.row] == each.path for each in won)
    names = {fact.name for fact in found.differences}
    assert {"method", "data"} <= names
    back = compare_runs([second, first]).versus[0]
    assert back.won == versus.lost
    assert back.differences["map_at_r"].value == pytest.approx(-versus.differences["map_at_r"].value)
    assert json.loads(json.dumps(found.as_dict()))["runs"][1]["name"] == "b"
    assert "b is better than a by" in text_of(found)


def test_a_cache_makes_no_other_data(tmp_path):
    """It was named as a difference of the data, which were the same."""
    first, second = make_run(tmp_path / "a", NAMES), make_run(tmp_path / "b", NAMES)
    (second / "images.sha256").write_text("1" * 64 + "\n")
    third = make_run(tmp_path / "c", NAMES, digests={NAMES[0]: "other"})
    as_read = "digest as read (cached, left out)"
    assert [fact.name for fact in compare_runs([first, second]).differences] == [as_read]
    assert [fact.name for fact in compare_runs([first, third]).differences] == ["digest of the data"]


def test_only_classes_that_no_run_has_seen_are_scored(tmp_path):
    first = make_run(tmp_path / "a", NAMES[:8], trained=NAMES[8:])
    second = make_run(tmp_path / "b", NAMES[2:10], trained=NAMES[:2], digests={NAMES[4]: "other"})
    found = compare_runs([first, second])
    assert found.classes == 5  # 2 to 7, without the one with other images
    assert found.runs[0].scores["map_at_r"].value == pytest.approx(
        scores_of(first, [*NAMES[2:4], *NAMES[5:8]])["map_at_r"]
    )
    text = " ".join(found.notes)
    assert f"left out 2 classes (class00, class01) that {second} was trained on or chosen by" in text
    assert f"left out 2 classes (class08, class09) that {first} was trained on or chosen by" in text
    assert "left out 1 class (class04) whose images differ between the runs in number, name or role" in text
    assert "Fewer than 10 classes are few" in text_of(found)
    third = make_run(tmp_path / "c", NAMES[:8], trained=("seen",))
    notes = " ".join(compare_runs([second, third]).notes)
    assert f"(class08, class09) of which the data of {third} have none of that name" in notes


def test_no_class_in_common(tmp_path):
    first = make_run(tmp_path / "a", NAMES[:6], trained=NAMES[6:])
    second = make_run(tmp_path / "b", NAMES[6:], trained=NAMES[:6])
    with pytest.raises(NoCommonClassesError, match="expected a test class that none of the runs has seen"):
        compare_runs([first, second])


def rename(path: Path, names: dict[str, str], shuffle: bool = False) -> None:
    """Give classes other names and their images another digest, as other data that list the same files do."""
    run, file = RunDirectory(path), path / "embeddings" / "test.npz"
    with np.load(file) as content:
        arrays = dict(content)
    arrays["class_names"] = np.array([names.get(name, name) for name in arrays["class_names"].tolist()])
    order = np.random.default_rng(0).permutation(len(arrays["labels"])) if shuffle else slice(None)
    write_arrays(file, **{name: each if name == "class_names" else each[order] for name, each in arrays.items()})
    classes = {names.get(name, name): entry._replace(digest="other") for name, entry in run.record().classes.items()}
    replace(run.record(), classes=classes).write(run.record_file)


@pytest.mark.parametrize("roles", [False, True])
def test_classes_of_other_names_are_matched_by_their_files(roles, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "link").symlink_to(photos)
    first = make_run(tmp_path / "first", NAMES, folder=str(photos), roles=roles)
    second = make_run(tmp_path / "second", NAMES, folder=str(photos), roles=roles, noise=0.9)
    expected = compare_runs([first, second])
    other = make_run(tmp_path / "other", NAMES, folder=str(tmp_path / "link"), roles=roles, noise=0.9)
    rename(other, {name: f"set/{name}" for name in NAMES}, shuffle=True)
    found = compare_runs([first, other])
    assert found.notes == [
        "classes were matched by the files of their images, as the data of the runs name classes or images differently"
    ]
    assert [run.scores for run in found.runs] == [run.scores for run in expected.runs]
    assert found.versus[0].differences == expected.versus[0].differences


def test_classes_that_are_not_matched_by_their_files_are_named(tmp_path):
    """As those of a folder, and of a table of its pictures from which `clean` has dropped some."""
    first = make_run(tmp_path / "first", NAMES, folder=str(tmp_path))
    second = make_run(tmp_path / "second", NAMES, folder=str(tmp_path), missing=["class03/1.png", "class05/0.png"])
    rename(second, {})
    found = compare_runs([first, second])
    assert found.classes == 10
    assert found.notes[1:] == [
        f"left out 2 classes (class03, class05) of {first}, {second}, as not all runs have exactly their files in a "
        "class that none has seen"
    ]


def test_files_of_classes_that_a_run_has_seen_are_not_matched(tmp_path):
    first = make_run(tmp_path / "first", NAMES, folder=str(tmp_path))
    second = make_run(tmp_path / "second", NAMES, (NAMES[0],), folder=str(tmp_path))
    rename(second, {name: f"set/{name}" for name in NAMES[1:]})
    kept = [name for name in NAMES if name != NAMES[0]]
    found = compare_runs([first, second])
    assert found.classes == len(kept)
    assert found.notes[1:] == [
        f"left out 1 class (class00) of {first}, {second}, as not all runs have exactly their files in a class that "
        "none has seen"
    ]
    third = make_run(tmp_path / "third", NAMES, folder=str(tmp_path / "moved"))
    rename(third, {name: f"set/{name}" for name in NAMES})
    with pytest.raises(NoCommonClassesError, match=f"of which the data of {third} have none of that name"):
        compare_runs([first, third])


def test_images_that_one_run_could_not_read_are_left_out(tmp_path):
    first = make_run(tmp_path / "a", NAMES)
    second = make_run(tmp_path / "b", NAMES, missing=["class03/1.png", "class07/0.png"])
    found = compare_runs([first, second])
    assert found.queries == 46
    assert found.notes == ["2 images that not all runs have were left out"]
    assert found.versus[0].equal == 46  # the same seed: the same embeddings
    assert found.versus[0].differences["map_at_r"].verdict == "equal"
    assert "a and b are equal on every query" not in text_of(found)
    assert "b and a are equal on every query" in text_of(found)


def test_queries_with_a_gallery(tmp_path):
    first, second = (make_run(tmp_path / name, NAMES, noise=n, roles=True) for name, n in (("a", 1.0), ("b", 0.2)))
    found = compare_runs([first, second])
    assert (found.classes, found.queries) == (12, 24)
    assert {each.queries for each in found.versus[0].classes} == {2}


def test_runs_that_differ_in_their_seed_are_one_configuration(tmp_path):
    paths = [
        make_run(tmp_path / f"{method}{seed}", NAMES, noise=noise, seed=seed, method=method)
        for method, noise in (("plain", 0.9), ("ccp", 0.6))
        for seed in (0, 1, 2)
    ]
    found = compare_runs(paths)
    first, second = found.configurations
    assert (first.runs, second.runs, second.seeds) == ((0, 1, 2), (3, 4, 5), (0, 1, 2))
    values = np.array([run.scores["map_at_r"].value for run in found.runs])
    assert first.spread["map_at_r"].mean == pytest.approx(values[:3].mean())
    assert first.spread["map_at_r"].std == pytest.approx(values[:3].std(ddof=1))
    gain = second.gains["map_at_r"]
    assert (gain.mean, gain.count) == (pytest.approx((values[3:] - values[:3]).mean()), 3)
    assert second.differences["map_at_r"].value == pytest.approx(gain.mean)
    assert all(v.differences["map_at_r"].p_adjusted >= v.differences["map_at_r"].p_value for v in found.versus)
    text = text_of(found)
    assert "ccp0 and 2 more against plain0 and 2 more" in text
    assert "p is adjusted for the 5 runs" in text
    assert compare_runs(paths[::3]).configurations == ()


def test_what_is_refused(tmp_path):
    run = make_run(tmp_path / "a", NAMES)
    with pytest.raises(ValueError, match="runs: expected two or more, got 1"):
        compare_runs([run])
    with pytest.raises(ValueError, match=r"paths: expected two or more runs, got .* alone; pass a list"):
        compare_runs(str(run))
    with pytest.raises(ValueError, match="skip_bad_images: expected together with data, got none"):
        compare_runs([run, make_run(tmp_path / "c", NAMES)], skip_bad_images=True)
    with pytest.raises(ValueError, match="expected each run once, got it twice"):
        compare_runs([run, tmp_path / "." / "a"])
    with pytest.raises(FileNotFoundError, match="expected a run directory, got a folder of runs, such as a"):
        compare_runs([run, tmp_path])
    damaged = make_run(tmp_path / "b", NAMES)
    (damaged / "embeddings" / "test.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"test\.npz.*resume the run, which writes it again"):
        compare_runs([run, damaged])
    (damaged / "scores.json").unlink()
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        compare_runs([run, damaged])
