"""Arguments of the calibration of a run."""

from pathlib import Path

import numpy as np
import pytest

from ccpml import train
from ccpml.calibration.run import calibrate_run
from tests.toy import quick_settings, toy_folder


def test_precisions_are_several_numbers_of_any_library(tmp_path: Path) -> None:
    run = train(quick_settings(data=f"folder:{toy_folder(tmp_path / 'photos')}", max_steps=2), tmp_path / "run", False)
    certificate = calibrate_run(run.path, precisions=np.array([0.5, 0.75], np.float32), confidence=np.float32(0.5))
    assert certificate.confidence == 0.5
    with pytest.raises(ValueError, match=r"precisions: expected several, such as \[0.9\], got none"):
        calibrate_run(run.path, precisions=())
    with pytest.raises(ValueError, match=r"precisions: expected several, such as \[0.9\], got 0.5"):
        calibrate_run(run.path, precisions=0.5)  # type: ignore[arg-type]
