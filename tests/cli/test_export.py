"""``ccpml export``: what it prints, and what it refuses before any work."""

import shutil
from pathlib import Path

import pytest

from ccpml import extras
from ccpml.cli import main
from ccpml.exporting import push
from ccpml.exporting.push import PushError


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be exported."""
    return Path(shutil.copytree(run, tmp_path / "mugs"))


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the one line on standard error."""
    code = main(["export", *arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return code, line.removeprefix("ccpml: error: ")


def test_what_is_written_is_printed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(own), "--format", "safetensors", "--license", "mit"]) == 0
    captured = capsys.readouterr()
    model, card = captured.out.splitlines()
    target = own / "export" / "mugs.safetensors"
    assert model == f"{target}: differs from the run by 0.0e+00 at most, on 13 images of test classes"
    assert card == f"{target}.md: model card"
    assert "License: mit" in Path(f"{target}.md").read_text(encoding="utf-8")
    assert captured.err.startswith("loading libraries ...\n")


def test_a_target_that_exists_is_wrong_usage(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mugs.pt2"
    target.write_bytes(b"mine")
    expected = (2, f"{target}: already exists; choose another with --output, or remove it")
    assert error_of([str(own), "--format", "pt2", "-o", str(target)], capsys) == expected
    assert target.read_bytes() == b"mine"


def test_wrong_arguments_are_wrong_usage(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = ["--format", "hub"]
    cases = [
        ([str(tmp_path), *hub], f"{tmp_path}: expected a run directory, got a folder of runs, such as mugs"),
        ([str(own)], "--format: expected a value, got none; see ccpml export --help"),
        ([str(own), "--format", "tflite"], "--format: expected onnx, pt2, safetensors or hub, got 'tflite'"),
        ([str(own), "--format", "onnx", "-o", "a.pt2"], "--output: expected a file that ends in .onnx, got a.pt2"),
        ([str(own), *hub, "--license", "my own"], "--license: expected an identifier such as apache-2.0"),
        ([str(own), *hub, "--push", "mugs"], "--push: expected user/name, of letters, digits"),
        ([str(own), "--format", "pt2", "--push", "a/b"], "--push: expected --format hub, got pt2"),
        ([str(own), str(own), *hub], f"expected run, got {own} too; see ccpml export --help"),
    ]
    for arguments, message in cases:
        code, line = error_of(arguments, capsys)
        assert (code, line[: len(message)]) == (2, message)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    code, line = error_of([str(own), "--format", "onnx"], capsys)
    assert code == 2
    assert line.endswith("not installed; pip install onnx onnxscript onnxruntime (the extra export of ccpml)")
    code, line = error_of([str(own), *hub, "--push", "a/b"], capsys)
    assert (code, line) == (
        2,
        "push: needs huggingface_hub, not installed; pip install huggingface-hub (the extra hub of ccpml)",
    )
    assert not (own / "export").exists()


def test_it_is_uploaded_only_if_asked(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = []
    monkeypatch.setattr(push, "push", lambda folder, name: pushed.append((folder, name)) or "https://hub/me/mugs")
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    assert main(["export", str(own), "--format", "hub"]) == 0
    assert pushed == []
    target = tmp_path / "again"
    assert main(["export", str(own), "--format", "hub", "-o", str(target), "--push", "me/mugs"]) == 0
    assert pushed == [(target, "me/mugs")]
    assert 'from_pretrained("me/mugs")' in (target / "README.md").read_text(encoding="utf-8")
    assert "https://hub/me/mugs: uploaded" in capsys.readouterr().out

    def fail(folder: Path, name: str) -> str:
        raise PushError("me/mugs: not uploaded (no route to host)")

    monkeypatch.setattr(push, "push", fail)
    arguments = ["export", str(own), "--format", "hub", "-o", str(tmp_path / "third"), "--push", "me/mugs"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("ccpml: error: me/mugs: not uploaded (no route to host)\n")
    assert (tmp_path / "third" / "config.json").is_file()
