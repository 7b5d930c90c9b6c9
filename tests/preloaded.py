"""Python processes that start in a moment: forks of a server that has imported the large libraries.

With the fixture ``preloaded``, `subprocess` starts commands ``[sys.executable, "-m" or "-c", ...]`` as forks of the
server. Each is a child of the process that starts it, has its own arguments, environment, folder, streams and signals,
imports the package itself, and starts others in the same way. Other commands, and all on other systems than Linux, are
started as always.

Forks share the hash seed of the server, and their libraries are loaded when Ctrl-C comes. Tests of imports, and one run
of each comparison, start a new interpreter: fixtures of a module do, as they come before ``preloaded``.
"""

import atexit
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("lightning.pytorch", "torch.utils.tensorboard", "torch.distributed.run", "matplotlib.pyplot", "PIL.Image"),
    *("jsonargparse", "yaml", "safetensors.torch", "filelock", "simplejpeg", "tqdm", "pytest"),
)
NO_PICTURES = "CCPML_TESTS_NO_PICTURES"
"""Environment variable of processes that write reports without pictures, which take longer than a short training."""

_SET_NAME, _SET_CHILD_SUBREAPER = 15, 36  # of prctl
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_Popen = subprocess.Popen
_START = subprocess.Popen._execute_child  # the method that starts the process
_PATH = {str(Path.cwd()), "", *os.environ.get("PYTHONPATH", "").split(os.pathsep)}

_server: "socket.socket | None" = None


class Popen(subprocess.Popen):  # of str or bytes
    """A process that is a fork of the server where it can be."""

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(_START).bind(self, *arguments).arguments
        command = given["args"]
        python = not isinstance(command, str) and list(command[:1]) == [sys.executable] and command[1] in {"-m", "-c"}
        if sys.platform != "linux" or not python:
            _START(self, *arguments)
            return
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        request = {
            "arguments": [os.fspath(argument) for argument in command[1:]],
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "folder": os.fspath(given["cwd"] or Path.cwd()),
            "new_session": given["start_new_session"],
            "passed": list(given["pass_fds"]),
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "parent": os.getpid(),
        }
        server = _connect()
        with _adopting():
            socket.send_fds(server, [json.dumps(request).encode()], [*streams, *request["passed"]])
            self.pid = int(server.recv(99))
            server.recv(99)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _PIPES))


@contextmanager
def _adopting() -> Iterator[None]:
    """Make this process the parent of descendants whose parent ends within the block."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _connect() -> socket.socket:
    """Return the connection to the server of this process, started at first use."""
    global _server
    if _server is None:
        _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        atexit.register(_server.close)
        with theirs:
            number = theirs.fileno()
            options = {"cwd": Path(__file__).parents[1], "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            command = [sys.executable, "-m", "tests.preloaded", str(number)]
            process = _Popen(command, pass_fds=[number], start_new_session=True, **options)
            process.returncode = 0  # it ends by itself, after this process
    return _server


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork at each request until the client ends; return in the new process, with the request and its streams."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, 2**20, 32)
        if not message:
            os._exit(0)
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                connection.close()
                return json.loads(message), streams
            connection.send(str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        connection.send(b"adopted")
        for stream in streams:
            os.close(stream)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over the streams, the environment and the signals of a request."""
    end = time.monotonic() + 60
    while os.getppid() != request["parent"] and time.monotonic() < end:
        time.sleep(0.001)
    if request["new_session"]:
        os.setsid()
    wanted = [0, 1, 2, *request["passed"]]
    for number, stream in zip(wanted, [os.dup(stream) for stream in streams], strict=True):
        os.dup2(stream, number)
        os.close(stream)
    for stream in set(streams) - set(wanted):
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])


def _open_streams() -> None:
    """Open the standard streams as the interpreter does."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    output, errors = (io.FileIO(number, "w", closefd=False) for number in (1, 2))
    if not unbuffered:
        output, errors = io.BufferedWriter(output), io.BufferedWriter(errors)
    sys.stdout = io.TextIOWrapper(output, write_through=unbuffered)
    sys.stderr = io.TextIOWrapper(
        errors, errors="backslashreplace", line_buffering=not unbuffered, write_through=unbuffered
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _run(way: str, what: str, *arguments: str) -> None:
    """Do what the interpreter does with its arguments."""
    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002  # the state that a new interpreter would have drawn
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    _open_streams()
    own = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = ["" if way == "-c" else str(Path.cwd()), *own, *(place for place in sys.path if place not in _PATH)]
    sys.argv = ["-c" if way == "-c" else what, *arguments]
    ctypes.CDLL(None).prctl(_SET_NAME, what[-15:].encode(), 0, 0, 0)  # as which `ps -o comm` shows it
    if os.environ.get(NO_PICTURES):
        from ccpml.report import write

        write.SECTIONS = ()
    if way == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _main(connection: socket.socket) -> None:
    """Serve; in each new process, start its own server and run what was requested."""
    global _server
    while True:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        request, streams = _serve(connection)
        _become(request, streams)
        _server, connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            break
        _server.close()  # this is the server of the process, and its forks have the state of now
    connection.close()
    sys.modules["tests.preloaded"] = sys.modules["__main__"]
    subprocess.Popen = Popen
    _run(*request["arguments"])


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    _main(socket.socket(fileno=int(sys.argv[1])))
