"""``ccpml serve``: what is refused before it starts, and a whole life of a service."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from ccpml.cli import main
from tests.damage.states import bound_by_permissions


@pytest.fixture(scope="module")
def index(run, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("indices") / "toy.index"
    assert main(["index", str(run), str(folder / "group0"), "-o", str(path)]) == 0
    return path


@pytest.fixture
def serve(capsys, monkeypatch):
    monkeypatch.delenv("CCPML_TOKEN", raising=False)

    def call(*arguments):
        capsys.readouterr()
        code = main(["serve", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return call


def test_wrong_options_are_one_sentence_and_exit_code_2(serve, index, tmp_path):
    empty, short, letters = tmp_path / "empty", tmp_path / "short", tmp_path / "letters"
    empty.write_text("\n")
    short.write_text("secret\n")
    letters.write_text("sésame-ünïcode-token", encoding="utf-8")
    for arguments, sentence in (
        ((tmp_path / "none",), r"none: not an index \(not found\); `ccpml index"),
        ((index, "--host", "0.0.0.0"), r"--host: 0\.0\.0\.0 can be reached from other machines, and no token is set;"),
        ((index, "--port", "70000"), r"--port: expected 0 to 65535, got 70000"),
        ((index, "--token-file", tmp_path / "none"), r"--token-file: \S+none cannot be read \(No such file"),
        ((index, "--token-file", empty), r"--token-file: \S+empty is empty"),
        ((index, "--token-file", letters), r"--token-file or CCPML_TOKEN: expected printable ASCII characters"),
        ((index, "--token-file", short), r"--token-file or CCPML_TOKEN: expected at least 16 characters, got 6;"),
        ((index, "--max-k", "0"), r"--max-k: expected 1 to 1000, got 0"),
        ((index, "--workers", "0"), r"--workers: expected 1 to 1024, got 0"),
        ((index, "--workers", "99999999"), r"--workers: expected 1 to 1024, got 99999999"),
        ((index, "--timeout", "0"), r"--timeout: expected a number above 0, got 0\.0"),
        (
            (index, "--allow-host", "https://a.example/"),
            r"--allow-host: expected names without scheme, port and \*, .*a\.e",
        ),
        ((index, "--run", tmp_path), r"not a run directory"),
    ):
        code, err = serve(*arguments, *(() if "--port" in arguments else ("--port", "0")))
        assert code == 2, arguments
        assert re.search(rf"^ccpml: error: .*{sentence}", err, re.MULTILINE), err
        assert len([line for line in err.splitlines() if not line.endswith("...")]) == 1


def test_feedback_needs_an_index_that_can_be_written(serve, index, tmp_path):
    copy = shutil.copytree(index, tmp_path / "closed.index")
    copy.chmod(0o555)
    with bound_by_permissions():
        code, err = serve(copy, "--feedback", "--port", "0")
    copy.chmod(0o755)
    assert code == 1
    assert f"ccpml: error: {copy}/verdicts.csv: cannot be written (Permission denied)" in err


def test_a_port_in_use_is_named_before_most_libraries_are_loaded(serve, index):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = serve(index, "--port", port)
    assert (code, err) == (
        2,
        "loading libraries ...\n"
        f"ccpml: error: 127.0.0.1:{port}: already in use; stop what uses it, or choose another port\n",
    )


def test_without_the_extra_one_sentence_says_what_to_install(serve, index, monkeypatch):
    monkeypatch.setattr("ccpml.extras.find_spec", lambda name: None)
    code, err = serve(index)
    assert (code, err) == (
        2,
        "ccpml: error: serve: needs fastapi, uvicorn, python_multipart, not installed; "
        "pip install fastapi uvicorn python-multipart (the extra serve of ccpml)\n",
    )


def test_a_service_says_where_it_listens_answers_and_ends_at_ctrl_c(index, folder):
    command = [sys.executable, "-m", "ccpml.cli", "serve", str(index), "--port", "0", "--max-k", "5"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "CCPML_TOKEN": "0123456789abcdef"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.fullmatch(
            rf"{re.escape(str(index))}: 20 pictures on (http://127\.0\.0\.1:\d+) \(Ctrl-C stops\)\n", line
        )
        assert address, line
        picture = (folder / "group0" / "class01" / "2.png").read_bytes()
        request = {"files": {"picture": picture}, "timeout": 30}
        assert httpx.post(f"{address[1]}/api/search", **request).status_code == 401
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        answer = httpx.post(f"{address[1]}/api/search", headers=headers, data={"k": "5"}, **request).json()
        assert answer["hits"][0]["name"] == "2.png"
        assert len(answer["hits"]) == 5
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1] == "ccpml: stopped"
    assert "Traceback" not in err
