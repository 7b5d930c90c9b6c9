"""onnxruntime is used such that it leaves nothing behind and reports to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported.onnx_models import write_model

_CODE = """\
import sys
import numpy as np
from ccpml.exported import ExportedModel
print(ExportedModel(sys.argv[1]).embed([np.zeros((40, 40, 3), np.uint8)]).shape)
"""


def test_a_model_is_used_without_a_trace_in_the_home_folder(tmp_path: Path):
    """onnxruntime writes an id of the device and a queue of reports there before it sends any."""
    model, home = write_model(tmp_path / "model.onnx"), tmp_path / "home"
    home.mkdir()
    mine = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(home)}  # no CI, no pytest
    done = subprocess.run([sys.executable, "-c", _CODE, model], env=mine, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(1, ")
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []


def test_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch):
    from ccpml.exported.runtime import import_onnxruntime

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for given, kept in ((None, "1"), ("0", "0")):
        if given is not None:
            monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
        import_onnxruntime()
        assert os.environ["ORT_DISABLE_TELEMETRY"] == kept
