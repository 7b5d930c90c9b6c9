"""Random sequences of changes compared with a dictionary, and processes that are killed while they make them."""

import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccpml.serving import Index
from tests.serving.changes import EMBEDDER, change, changed, check_search, state_of
from tests.serving.kill import kill_and_check

KINDS = st.sampled_from(["add", "add", "remove", "sync", "compact", "reopen"])
CHANGES = st.lists(st.tuples(KINDS, st.sets(st.integers(0, 7), min_size=1)), max_size=8)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES)
def test_any_sequence_of_changes_equals_that_of_a_dictionary(changes):
    with tempfile.TemporaryDirectory() as folder:
        path, state, ids = Path(folder) / "x.index", dict[int, int](), set[int]()
        index = Index.create(path, EMBEDDER)
        for version, (kind, numbers) in enumerate(changes, 1):
            if kind == "reopen":
                index.close()
                index = Index.open(path, EMBEDDER)
            else:
                change(index, kind, numbers, version)
                state = changed(state, kind, numbers, version)
            assert state_of(index) == state
            ids |= {item.id for item in index.items()}
        check_search(index, state)
        assert index.verify() == (len(state), [], [], set())
        if kept := sorted(state):
            added = index.add([])
            change(index, "add", kept[:1], 99)
            assert added.ids == []
            assert not ids & {item.id for item in index.items() if item.metadata["version"] == 99}  # never used again
        index.close()


def test_a_killed_process_loses_nothing_that_it_has_acknowledged(tmp_path):
    folder, chance = tmp_path / "x.index", random.Random(7)
    Index.create(folder, EMBEDDER).close()
    for seed in range(1, 3):  # tools/kill_index.py does this fifty times
        kill_and_check(folder, chance, seed, seconds=0.4)
