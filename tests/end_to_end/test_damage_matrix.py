"""Some cases of the damage matrix; ``tools/damage_matrix.py`` checks all."""

import os
import random
import re
import signal
import time

import pytest

from tests.damage.commands import MAKERS
from tests.damage.judge import LOCKS, Outcome, judge
from tests.damage.states import FILE_STATES, FOLDER_STATES
from tests.damage.world import Case, World, run_apart


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
    chosen = random.Random(0).sample(cases, 15)
    assert [(case, problem) for case in chosen if (problem := world.check(case))] == []


@pytest.mark.parametrize(
    "case",
    [
        Case("run/embeddings/", "unreadable", "report"),
        Case("run/experiment.yaml", "empty", "evaluate"),
        Case("run/checkpoints/best.safetensors", "flipped", "train-weights"),
        Case("run/checkpoints/best.safetensors", "cut", "train-weights"),
    ],
    ids=str,
)
def test_what_was_wrong_is_right(world, case):
    assert world.check(case) == ""


def test_silence_and_changes_are_found():
    files = {"run/a.json": b"1", "run/b.json": b"2", "run/": b""}
    page = "run/report.html: written"

    def outcome(code: int, text: str, **changed: bytes) -> Outcome:
        after = {**files, **{f"run/{name}.json": content for name, content in changed.items()}}
        return Outcome.of(code, text, files, after, files)

    def judged(code: int, text: str, **changed: bytes) -> str:
        return judge("run/a.json", "cut", "evaluate", outcome(0, page), outcome(code, text, **changed))

    assert not judged(0, page)
    assert not judged(1, "run: error: /run/a.json: damaged; restore it")
    assert not judged(0, f"note: /run/a.json: damaged; it is left out\n{page}")
    assert judged(0, "another score").startswith("another result")
    assert judged(0, page, b=b"3").startswith("another result")
    assert judged(0, f"note: /run/a.json: damaged\n{page}", b=b"3") == "changed ['run/b.json']"
    assert judged(1, "damaged; restore it").startswith("file not named")
    assert judged(1, "/other/a.json: damaged; restore it").startswith("file not named")
    assert judged(1, "/run/a.json.md: damaged; restore it").startswith("file not named")
    assert judged(1, "/run/a.json: damaged").startswith("no way out")
    lost = outcome(1, "/run/a.json: damaged; restore it")
    assert judge("run/a.json", "unreadable", "evaluate", outcome(0, page), lost).startswith("wrong reason")
    assert judged(1, "note: few classes; more are better\nerror: /run/a.json: damaged").startswith("no way out")
    assert judged(1, "/run/a.json: damaged; restore it", b=b"3") == "changed ['run/b.json']"
    assert judged(1, "/run/a.json: damaged; restore it", new=b"") == "changed ['run/new.json']"
    assert judged(1, "/run/a.json: [Errno 5]; restore it").startswith("words of a library")
    assert judged(3, "/run/a.json: damaged; restore it").startswith("exit code 3")


def test_a_folder_that_is_left_is_found():
    right = Outcome.of(0, "", {}, {}, {})
    left = Outcome.of(1, "/run/a.json: damaged; restore it", {}, {"out/": b""}, {})
    assert judge("run/a.json", "cut", "embed", right, left) == "changed ['out/']"


def test_what_a_page_names_without_damage_is_no_word_on_it():
    whole = Outcome.of(0, "/run/a.json: written", {}, {"out.html": b"1"}, {"out.html": b"1"})
    other = Outcome.of(0, "/run/a.json: written", {}, {"out.html": b"2"}, {"out.html": b"1"})
    assert judge("run/a.json", "cut", "compare", whole, other).startswith("another result")


def test_a_fork_returns_its_result_or_its_signal():
    assert run_apart(lambda: (2, "é")) == (2, "é")
    assert run_apart(lambda: os.kill(os.getpid(), signal.SIGSEGV))[0] == -signal.SIGSEGV
    assert run_apart(lambda: time.sleep(9), limit=1) == (-signal.SIGALRM, "SIGALRM after 1 s at most")
