"""A preloaded process is like any other: its arguments, streams, signals, folder, parent and end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded

PROGRAM = """
import json, os, signal, sys
facts = {
    "arguments": sys.argv,
    "path": sys.path,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "parent": os.getppid(),
    "own session": os.getsid(0) == os.getpid(),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "termination": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name[0] != "_"),
    "buffered": [stream.line_buffering for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "read": sys.stdin.read(),
    "passed": os.read(int(sys.argv[1]), 9).decode(),
    "ours": "ccpml" in sys.modules,
}
print(json.dumps(facts))
print("to standard error", file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize(("way", "unbuffered"), [("-c", "1"), ("-m", "")])
def test_a_process_is_as_the_interpreter_starts_it(way: str, unbuffered: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    found = []
    for start in (subprocess.Popen, preloaded.Popen):
        reading, writing = os.pipe()
        os.write(writing, b"passed on")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": unbuffered}
        command = [sys.executable, way, PROGRAM if way == "-c" else "program", str(reading), "an argument"]
        options = {"env": environment, "cwd": tmp_path, "start_new_session": True, "pass_fds": [reading], "text": True}
        streams = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
        with start(command, **options, **streams) as process:
            out, err = process.communicate("some input")
        os.close(reading)
        os.close(writing)
        facts = json.loads(out)
        assert (facts["parent"], facts["read"], facts["passed"]) == (os.getpid(), "some input", "passed on")
        del facts["arguments"][1]  # the number of the pipe
        found.append((process.returncode, err, facts))
    assert found[0][:2] == found[1][:2]
    for name, fact in found[0][2].items():
        assert found[1][2][name] == fact, name


@pytest.mark.skipif(sys.platform != "linux", reason="others start new interpreters")
def test_libraries_are_loaded_before_the_first_instruction() -> None:
    program = "import sys; print('torch' in sys.modules, 'lightning' in sys.modules, 'ccpml' in sys.modules)"
    with preloaded.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == "True True False\n"


def test_signals_reach_the_process_and_its_end_is_seen() -> None:
    program = "import time; print(1, flush=True); time.sleep(60)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        with preloaded.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "1\n"
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait() == -number


def test_processes_that_it_starts_are_its_children() -> None:
    inner = "import os, sys; print(os.getppid(), 'torch' in sys.modules)"
    program = (
        "import os, subprocess, sys\n"
        f"found = subprocess.run([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE, text=True).stdout\n"
        "sys.exit(3 if found == f'{os.getpid()} True\\n' else found)"
    )
    with preloaded.Popen([sys.executable, "-c", program]) as process:
        assert process.wait() == 3
