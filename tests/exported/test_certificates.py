"""The certificate of a model is found in its run or in its file."""

from pathlib import Path

import pytest

from ccpml.calibration import Certificate, CertificateError
from ccpml.exported import find_certificate
from tests.exported.onnx_models import describe, write_model

PRINT = "f" * 64


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    folder = tmp_path / "run"
    Certificate(PRINT, 0.95, {0.8: 0.75, 0.9: 0.5}, answers=3).write(folder)
    return Certificate.read(folder)


def test_that_of_the_file_is_that_of_the_run(certificate: Certificate, tmp_path: Path):
    file = write_model(tmp_path / "m.onnx", describe(certificate=dict(certificate.details)))
    assert find_certificate(file, PRINT) == find_certificate(tmp_path / "run", PRINT) == certificate


def test_without_one(tmp_path: Path):
    for model in (tmp_path, tmp_path / "missing", tmp_path / "missing.onnx", write_model(tmp_path / "m.onnx")):
        assert find_certificate(model, PRINT) is None


def test_one_of_other_weights_or_a_damaged_one_is_refused(certificate: Certificate, tmp_path: Path):
    other = write_model(tmp_path / "m.onnx", describe(certificate=dict(certificate.details)))
    for model, name in ((other, "m.onnx"), (tmp_path / "run", "certificate.json")):
        with pytest.raises(CertificateError, match=rf"{name}: expected the certificate of the weights in use"):
            find_certificate(model, "a" * 64)
    (tmp_path / "run" / "certificate.json").unlink()
    (tmp_path / "run" / "certificate.json").mkdir()
    with pytest.raises(CertificateError, match=r"certificate\.json: cannot be read \(Is a directory\); calibrate"):
        find_certificate(tmp_path / "run", PRINT)
    damaged = write_model(tmp_path / "d.onnx", describe(certificate={"format": 1, "promises": "x"}))
    with pytest.raises(CertificateError, match=r"d\.onnx: not a certificate"):
        find_certificate(damaged, PRINT)
    damaged.write_bytes(b"x")
    with pytest.raises(CertificateError, match="not an ONNX file"):
        find_certificate(damaged, PRINT)
