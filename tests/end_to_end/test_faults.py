"""Every write, flush and rename of a run fails once for a full disk and once for a broken one; nothing is lost.

A run is resumed after each failure until no file, call and error are left that have not failed. The result is that of
the run without failures.
"""

import errno
import os
import re

import pytest

from ccpml.cli import main
from tests.end_to_end.test_interruption import assert_same
from tests.faults import FailingCalls
from tests.toy import QUICK, toy_folder

ERRORS = {"open": (errno.EACCES,), "write": (errno.ENOSPC, errno.EIO), "fsync": (errno.EIO, errno.ENOSPC)}
ERRORS["replace"] = (errno.ENOSPC, errno.EIO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


class EachOnce:
    """Faults that come once each, one in a run: of each file, each call with each error."""

    def __init__(self):
        self.left = {}  # errors that are still to come, by file and call
        self.failed = None

    def __call__(self, call, path):
        name = re.sub(r"\.\d+\.tmp", "", path.name)
        errors = self.left.setdefault((name, call), list(ERRORS[call]))
        if self.failed or not errors:
            return None
        self.failed = name, os.strerror(errors[0])
        return errors.pop(0)


def test_a_run_survives_the_failure_of_every_write(folder, tmp_path, monkeypatch, capsys):
    flags = [f"--{name}={value}" for name, value in {**QUICK, "max_steps": 2, "validate_every": 1}.items()]
    monkeypatch.setattr("ccpml.report.write.SECTIONS", ())  # pictures take most of the time
    assert main(["train", f"folder:{folder}", *flags, "--run", str(tmp_path / "whole")]) == 0
    path, faults = tmp_path / "run", EachOnce()
    monkeypatch.setattr("ccpml.files.os", FailingCalls(faults))
    ends, rest = 0, f"; then resume with: ccpml train --resume {path}"
    for _ in range(500):
        capsys.readouterr()
        faults.failed = None
        exists = (path / "experiment.yaml").is_file()
        again = ["--resume", str(path)] if exists else [f"folder:{folder}", *flags, "--run", str(path)]
        code = main(["train", *again])
        error = capsys.readouterr().err.splitlines()[-1]
        if faults.failed is None:
            assert code == 0
            break
        ends += 1
        name, reason = faults.failed
        assert code == 1
        assert re.match(rf"ccpml: error: \S*/{re.escape(name.lstrip('.'))}: cannot be written \({reason}\); \w", error)
        assert error.endswith(rest if (path / "experiment.yaml").is_file() else error[-1])
        assert not list(tmp_path.rglob("*.tmp*"))
    assert_same(path, tmp_path / "whole")
    names = {name for name, _ in faults.left}
    assert {".experiment.yaml", ".last.ckpt", ".best.safetensors", ".scores.json", ".metrics.csv"} <= names
    assert ends == sum(len(ERRORS[call]) for _, call in faults.left)
    assert ends > 70
