"""``ccpml calibrate``: what it prints and writes, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from ccpml.calibration import Certificate, CertificateError
from ccpml.cli import main
from ccpml.runs.inference import load_run
from tests.toy import toy_folder


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be calibrated."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Classes with other names than those of the run."""
    folder = toy_folder(tmp_path_factory.mktemp("other") / "many", classes=40)
    for group in folder.iterdir():
        group.rename(folder / f"new{group.name}")
    return f"folder:{folder}"


def test_other_data_make_a_promise(own: Path, many: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(own), many, "--precision", "0.2,0.999"]) == 0
    out = capsys.readouterr().out
    assert "40 classes that the run has not seen, 200 queries" in out
    assert "20 classes calibrate, the other 20 check" in out
    assert "0.999: a precision of 0.999 cannot be promised" in out
    certificate = Certificate.read(own)
    certificate.check(load_run(own).fingerprint)
    assert certificate.distance_for(0.2) == max(certificate.distances.values())
    assert certificate.distance_for(0.999) is None
    page = (own / "report.html").read_text(encoding="utf-8")
    assert "Answers with a guarantee" in page
    assert "0.999 cannot be promised" in page
    assert (own / "pictures" / "guarantee.png").is_file()
    assert certificate.details["promises"][0]["check"]["precision"] > 0.2


def test_too_few_classes_say_how_many_would_do(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(own), "--json"]) == 1
    captured = capsys.readouterr()
    written = json.loads((own / "certificate.json").read_text())
    assert json.loads(captured.out)["promises"] == written["promises"]
    assert "a precision of 0.8 cannot be promised from 6 classes; about" in captured.err
    assert all(row["classes_needed"] > 6 for row in written["promises"])
    assert "certificate.json keeps what was measured\nwriting the report" in captured.err
    assert main(["calibrate", str(own)]) == 1  # nor has the certificate before any promise
    assert "certificate.json keeps what was measured\n" in capsys.readouterr().err


def test_no_promise_is_lost_without_a_word(own: Path, many: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = own / "certificate.json"
    assert main(["calibrate", str(own), many, "--precision", "0.2"]) == 0
    promised, written = max(Certificate.read(own).precisions), file.read_bytes()
    assert main(["calibrate", str(own)]) == 1
    assert f"{file} keeps its promises from {many}\n" in capsys.readouterr().err
    assert file.read_bytes() == written
    assert main(["calibrate", str(own), many, "--precision", "0.01", "--calibration-share", "0.1"]) == 0
    assert max(Certificate.read(own).precisions) < promised
    assert f"{file}: the one before, from {many}, promised {promised:g} too\n" in capsys.readouterr().err


def test_a_certificate_of_other_weights_is_refused(own: Path, many: str) -> None:
    assert main(["calibrate", str(own), many, "--precision", "0.2"]) == 0
    file = own / "checkpoints" / "best.safetensors"
    record = load_run(own).fingerprint
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("model.") and weights[name].is_floating_point())
    save_file({**weights, name: weights[name] + 0.01}, file)
    assert main(["report", str(own)]) == 1
    assert "Answers with a guarantee" not in (own / "report.html").read_text(encoding="utf-8")
    with pytest.raises(CertificateError, match="expected the certificate of the weights in use"):
        Certificate.read(own).check(load_run(own).fingerprint)
    assert Certificate.read(own).fingerprint == record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "95"], "--precision"),
        (["--precision", "0.9,x"], "such as 0.95, got 'x'"),
        (["--precision", "0.9,0.90"], "expected each once, got 0.9,0.90"),
        (["--confidence", "1"], "--confidence"),
        (["--answers", "0"], "--answers: expected an integer of at least 1, got 0"),
        (["folder:nowhere"], "folder:nowhere: folder not found"),
    ],
)
def test_wrong_usage(own: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(own), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (own / "certificate.json").exists()


def test_data_that_cannot_calibrate(
    own: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    for name in sorted(name for name, split in load_splits(own).items() if split != "test")[:5]:
        shutil.copytree(folder / name, seen / name)
    cases = {
        f"folder:{seen}": "expected classes that the run was not trained on",
        f"folder:{toy_folder(tmp_path / 'few', classes=3)}/group0": "expected at least 4 unseen ones",
        f"folder:{toy_folder(tmp_path / 'single', per_class=1)}": "expected a class with at least two images, got none",
    }
    for data, message in cases.items():
        for group in tmp_path.glob("single/group*"):
            group.rename(group.with_name(f"new{group.name}"))
        assert main(["calibrate", str(own), data]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"ccpml: error: {data}: ")
        assert message in error
        assert "--all-classes" not in error
    assert not (own / "certificate.json").exists()


def load_splits(run: Path) -> dict[str, str]:
    return {name: entry[0] for name, entry in json.loads((run / "record.json").read_text())["classes"].items()}


def test_embeddings_that_are_not_finite(own: Path, many: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = own / "checkpoints" / "best.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("model.") and weights[name].is_floating_point())
    save_file({**weights, name: weights[name] * np.nan}, file)
    assert main(["calibrate", str(own), many]) == 1
    assert "expected finite embeddings, got NaN or infinity for 200 of 200 images" in capsys.readouterr().err
    assert not (own / "certificate.json").exists()
