"""Some cases of the damage matrix; ``tools/damage_matrix.py`` checks all."""

import random
import re

import pytest

from tests.damage.commands import MAKERS
from tests.damage.judge import LOCKS, Outcome, judge
from tests.damage.states import FILE_STATES, FOLDER_STATES
from tests.damage.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.build(tmp_path_factory.mktemp("damage") / "world")


def test_every_file_is_given_to_a_verb(world):
    covered = {case.name for case in world.cases(alike=10**6)}
    for_people = re.compile(r"\.md$|^cleaned/index\.html$")
    others = [name for name in world.files if name not in covered]
    assert [name for name in others if not LOCKS.search(name) and not for_people.search(name)] == []


def test_every_verb_and_state_is_covered(world):
    cases = [*world.cases(alike=1)]
    assert {case.verb for case in cases} == {*world.verbs} - {*MAKERS}
    assert {case.state for case in cases} == {*FILE_STATES, *FOLDER_STATES}


def test_damage_is_named_and_nothing_else_is_changed(world):
    cases = [case for case in world.cases(alike=1) if "pictures/" not in case.name]
    chosen = random.Random(0).sample(cases, 18)
    assert [(case, problem) for case in chosen if (problem := world.check(case))] == []


def test_silence_and_changes_are_found():
    files = {"run/a.json": b"1", "run/b.json": b"2"}
    right = Outcome(0, "as always", files, files)

    def judged(code: int, text: str, **changed: bytes) -> str:
        after = {**files, **{f"run/{name}.json": content for name, content in changed.items()}}
        return judge("run/a.json", "cut", "evaluate", right, Outcome(code, text, files, after))

    assert not judged(0, "as always")
    assert not judged(1, "run/a.json: damaged; restore it")
    assert judged(0, "another score").startswith("another result")
    assert judged(0, "as always", b=b"3").startswith("another result")
    assert judged(1, "damaged; restore it").startswith("file not named")
    assert judged(1, "run/a.json: damaged").startswith("no way out")
    assert judged(1, "run/a.json: damaged; restore it", b=b"3") == "changed ['run/b.json']"
    assert judged(1, "run/a.json: [Errno 5]; restore it").startswith("words of a library")
    assert judged(3, "run/a.json: damaged; restore it").startswith("exit code 3")
