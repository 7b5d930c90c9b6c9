"""Options for speed change the losses by no more than their rounding."""

import csv
import shutil

import pytest

from ccpml.runs import train as training
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Return a function that trains with some settings and returns the losses."""
    folder = toy_folder(tmp_path_factory.mktemp("toy"), classes=24)

    def run(**options):
        changes = {"classes_per_batch": 2, "max_steps": 12, "lr": 1e-4, **options}
        settings = quick_settings(data=f"folder:{folder}", **changes)
        path = tmp_path_factory.mktemp("runs") / "run"
        training.train(settings, path, progress=False, test=False)
        with (path / "metrics.csv").open() as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]

    run.plain = run()
    return run


@pytest.mark.parametrize(
    ("options", "noise"),
    [
        ({"channels_last": True}, 1e-3),
        ({"precision": "bf16-mixed"}, 0.05),
        pytest.param(
            {"compile": True}, 1e-3, marks=pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler found")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_losses_are_the_same_up_to_rounding(losses, options, noise):
    assert losses(**options) == pytest.approx(losses.plain, rel=noise)


def test_a_class_rate_below_one_changes_the_losses_little(losses):
    found = losses(class_rate=0.5)
    assert found != losses.plain
    assert found == pytest.approx(losses.plain, rel=0.5)


def test_compiling_without_a_compiler_is_refused(losses, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile: no C\+\+ compiler found"):
        losses(compile=True)
