"""A rank that dies between its start and the first common step; in new interpreters, which read `sitecustomize`."""

import os
import subprocess
import sys

from tests.end_to_end.test_ranks import begin
from tests.toy import toy_folder

JOINING = """
import os

if "CCPML_RANK" in os.environ:
    write = os.write

    def write_and_die(file, data):
        write(file, data)
        if data == b".":  # it is about to join
            os.kill(os.getpid(), 9)

    os.write = write_and_die
"""


def test_a_rank_that_dies_before_it_joins_ends_the_run(tmp_path):
    folder = toy_folder(tmp_path / "toy", classes=16)
    (tmp_path / "sitecustomize.py").write_text(JOINING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = begin(folder, tmp_path / "run", ranks=2)
    failed = subprocess.run(run, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert failed.returncode == 1
    assert "error: training stopped: rank 1 was killed by signal 9" in failed.stderr
