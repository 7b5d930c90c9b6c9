"""The database of a study that is lost or damaged: it is named, and nothing is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import search_space

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

from ccpml.tuning.results import Result, is_tied
from ccpml.tuning.study import Search, StudyExistsError, open_study


@pytest.fixture
def search(tmp_path: Path) -> Search:
    base = Settings()
    search = Search(base=base, space=search_space(base, ["lr=1e-4..1e-2:log"]), out=tmp_path / "out", name="s")
    open_study(search)
    search.path(0).mkdir()
    return search


def test_a_lost_database_is_named(search: Search) -> None:
    file = search.out / "study.db"
    file.write_bytes(b"")
    with pytest.raises(StudyExistsError, match=r"study\.db: empty, but there are runs of a study; restore it"):
        open_study(search)
    file.unlink()
    with pytest.raises(StudyExistsError, match=r"study\.db: not found, but there are runs of a study; restore it"):
        open_study(search)
    assert not file.exists()


def test_a_damaged_database_is_named(search: Search) -> None:
    file = search.out / "study.db"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[1000::97] = bytes(len(flipped[1000::97]))
    for content in (b"nonsense", whole[:5000], bytes(flipped)):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"study\.db: damaged \(.*\); restore it from a copy, or move .* away"
        ) as error:
            open_study(search)
        assert "SQL" not in str(error.value)
        assert file.read_bytes() == content


def test_a_shared_storage_without_the_runs_is_refused(search: Search, tmp_path: Path) -> None:
    shared = replace(search, storage=f"sqlite:///{tmp_path}/other.db", out=tmp_path / "shared")
    open_study(shared)
    shared.path(0).mkdir()
    (tmp_path / "other.db").unlink()
    with pytest.raises(StudyExistsError, match="runs of a study that is not in the storage"):
        open_study(shared)


@pytest.mark.parametrize("storage", ["foo://bar", "sqlite:////no/such/folder/study.db"])
def test_a_storage_that_cannot_be_opened_leaves_no_folder(search: Search, tmp_path: Path, storage: str) -> None:
    refused = replace(search, storage=storage, out=tmp_path / "refused")
    with pytest.raises(ValueError, match=f"^storage {storage}: cannot be opened"):
        open_study(refused)
    assert not refused.out.exists()


def test_a_tie_is_no_best_value() -> None:
    first = Result(0, "complete", {"lr": 0.1}, 0.5)
    others = [Result(1, "complete", {"lr": 0.2}, 0.5), Result(2, "pruned", {"lr": 0.3}, 0.4)]
    assert is_tied([first, *others])
    assert not is_tied([first])
    assert not is_tied([first, replace(first, number=1)])
    assert not is_tied([first, *others, Result(3, "complete", {"lr": 0.4}, 0.6)])
