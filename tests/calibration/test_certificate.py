"""Reading and writing certificates."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ccpml.calibration import Certificate, CertificateError

CERTIFICATE = Certificate("f" * 64, 0.9, {0.8: 0.75, 0.9: 0.5, 0.95: 0.25}, answers=3, details={"seed": 1})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = CERTIFICATE.write(tmp_path)
    for path in (tmp_path, file, str(file)):
        read = Certificate.read(path)
        assert (read.fingerprint, read.confidence, read.answers) == ("f" * 64, 0.9, 3)
        assert read.distances == CERTIFICATE.distances
        assert read.details["seed"] == 1


@pytest.mark.parametrize(
    ("distance", "precision"), [(0.0, 0.95), (0.25, 0.95), (0.26, 0.9), (0.5, 0.9), (0.75, 0.8), (0.751, None)]
)
def test_precision_at_a_distance(distance: float, precision: float | None) -> None:
    assert CERTIFICATE.precision_at(distance) == precision


@pytest.mark.parametrize(("precision", "distance"), [(0.5, 0.75), (0.8, 0.75), (0.81, 0.5), (0.95, 0.25), (0.96, None)])
def test_distance_for_a_precision(precision: float, distance: float | None) -> None:
    assert CERTIFICATE.distance_for(precision) == distance


def test_a_promise_that_could_not_be_made_is_none(tmp_path: Path) -> None:
    promises = [{"precision": 0.8, "distance": 0.5}, {"precision": 0.99, "distance": None, "classes_needed": 600}]
    Certificate("f" * 64, 0.95, {0.8: 0.5}, details={"promises": promises}).write(tmp_path)
    read = Certificate.read(tmp_path)
    assert read.precisions == (0.8,)
    assert read.distance_for(0.99) is None
    assert read.details["promises"] == promises


def test_a_certificate_of_other_weights_is_refused() -> None:
    CERTIFICATE.check("f" * 64)
    with pytest.raises(CertificateError, match=r"certificate of the weights in use \(a{12}\), got .*again"):
        CERTIFICATE.check("a" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"confidence": "x"},
        {"fingerprint": 3},
        {"promises": None},
        {"promises": [{"precision": 0.8}]},
        {"promises": [{"precision": 1.5, "distance": 0.1}]},
        {"promises": [{"precision": 0.5, "distance": "x"}]},
        {"promises": [{"precision": 0.5, "distance": 4.0}]},
        {"promises": [{"precision": 0.5, "distance": -0.1}]},
    ],
)
def test_a_damaged_certificate_is_one_sentence(change: dict[str, object], tmp_path: Path) -> None:
    file = CERTIFICATE.write(tmp_path)
    content = json.loads(file.read_text())
    del content["digest"]  # as in certificates of older versions
    file.write_text(json.dumps({**content, **change}))
    with pytest.raises(CertificateError, match="calibrate the run again") as caught:
        Certificate.read(tmp_path)
    assert str(caught.value).startswith(str(file))


def test_a_certificate_that_was_read_and_changed_is_written_as_it_is_now(tmp_path: Path) -> None:
    details = {"data": "folder:x", "ladder": [{"precision": 0.5, "distance": 1.0}]}
    read = Certificate.read(Certificate("0" * 64, 0.95, {0.8: 0.7}, details=details).write(tmp_path))
    assert read.distances == {0.8: 0.7}
    whole = {**read.details, "ladder": details["ladder"]}
    withdrawn = replace(read, distances={0.9: 0.1}, confidence=0.9, details=whole)
    again = Certificate.read(withdrawn.write(tmp_path))
    assert (again.distances, again.confidence, again.details["data"]) == ({0.9: 0.1}, 0.9, "folder:x")
    for distances in ({0.5: 5.0}, {0.5: float("nan")}):
        with pytest.raises(CertificateError, match="not a certificate"):
            replace(read, distances=distances).write(tmp_path)
    assert Certificate.read(tmp_path) == again


def test_a_promise_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    file = CERTIFICATE.write(tmp_path)
    whole = file.read_text()
    assert Certificate.read(tmp_path).write(tmp_path).read_text() == whole
    for number in re.finditer(r"\d", whole):
        digit = str((int(number[0]) + 1) % 10)
        file.write_text(whole[: number.start()] + digit + whole[number.end() :])
        with pytest.raises(CertificateError, match=f"^{file}: .*calibrate the run again"):
            Certificate.read(tmp_path)
    content = json.loads(whole)
    del content["digest"]
    file.write_text(json.dumps(content))
    assert Certificate.read(tmp_path).distances == CERTIFICATE.distances, "an older version wrote none"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}'])
def test_any_other_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_bytes(content)
    with pytest.raises(CertificateError, match=r"certificate\.json: .*calibrate the run again"):
        Certificate.read(tmp_path)


def test_a_missing_certificate_says_so(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"certificate\.json: not found; calibrate the run again"):
        Certificate.read(tmp_path)


def test_reading_imports_no_torch() -> None:
    code = "import sys, ccpml.calibration; print({'torch', 'scipy', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
