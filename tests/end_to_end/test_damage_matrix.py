"""Some cases of the damage matrix; ``tools/damage_matrix.py`` checks all."""

import random

import pytest

from tests.damage import FOLDERS, STATES, World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.build(tmp_path_factory.mktemp("damage") / "world")


def test_every_file_is_covered(world):
    folders = (*FOLDERS, "images/group", "images/.ccpml-check")
    assert not [name for name in world.files if not name.startswith(folders)]


def test_damage_is_named_and_nothing_else_is_changed(world):
    cases = [case for case in world.cases() if "pictures/" not in case[0]]
    newer = [case for case in cases if case[0].startswith(("index/", "ensemble/", "model.", "hub/", "cleaned/"))]
    chosen = random.Random(0).sample(cases, 12) + random.Random(0).sample(newer, 6)
    wrong = [(case, problem) for case in chosen if (problem := world.check(*case))]
    assert not wrong
    assert {state for _, state, _ in cases} == set(STATES)
