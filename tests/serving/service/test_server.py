"""The service over sockets: clients that are slow, cut off or many, and its end."""

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from ccpml.cli.common.hints import describe
from ccpml.serving.service import ServiceSettings, create_app
from ccpml.serving.service.listen import AddressError, listen
from ccpml.serving.service.server import serve
from tests.serving.embedders import ColorEmbedder
from tests.serving.service.conftest import encoded

GRAY = encoded(np.full((9, 9, 3), 128, np.uint8))
TIMEOUT = 1.5


@pytest.fixture(scope="module")
def live(toy_index):
    """Port and process of a service with a short time for clients, and few connections."""
    yield from started(toy_index, {"timeout": TIMEOUT, "max_connections": 12})


@pytest.fixture
def patient(toy_index):
    """Port and process of a service that gives its clients time."""
    yield from started(toy_index, {})


def started(toy_index, settings):
    command = [sys.executable, "-m", "tests.serving.service.live", str(toy_index), json.dumps(settings)]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    port = int(process.stdout.readline())
    wait_until_served(port)
    yield port, process
    if process.poll() is None:
        process.kill()
    process.communicate()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def received(connection: socket.socket) -> bytes:
    """All that the service answers, in however many pieces, until it ends the connection; fails if it does not."""
    pieces = []
    with suppress(ConnectionError):  # an end too
        while piece := connection.recv(4096):
            pieces.append(piece)
    return b"".join(pieces)


def ask(port: int) -> None:
    """Search as another client."""
    assert httpx.post(f"http://127.0.0.1:{port}/api/search", files={"picture": GRAY}, timeout=60).status_code == 200


def wait_until_served(port: int) -> None:
    """Wait until the service has noticed that earlier connections ended: until then, one more may be refused."""
    limit = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200:
                return
        assert time.monotonic() < limit
        time.sleep(0.02)


HEAD = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def test_clients_that_do_not_send_are_cut_off_and_others_are_served(live):
    port, _ = live
    start = time.monotonic()
    with connected(port) as silent, connected(port) as half_head, connected(port) as half_body, connected(port) as drip:
        half_head.sendall(HEAD)
        half_body.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--x")
        drip.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        while time.monotonic() - start < TIMEOUT:
            with suppress(ConnectionError):  # once it is cut off
                drip.sendall(b"-")
            time.sleep(0.1)
            ask(port)
        answer = received(half_body)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"detail":"body: not sent within 1.5 seconds"}')
        for connection in (silent, half_head, drip):
            received(connection)
    assert time.monotonic() - start < 20 * TIMEOUT


def test_clients_that_cut_off_leave_nothing_behind(live):
    port, process = live
    for _ in range(20):
        with connected(port) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--x")
    for _ in range(20):
        with connected(port) as connection:
            connection.sendall(b"GET /api/items/1/thumbnail HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_until_served(port)
    ask(port)
    limit = time.monotonic() + 60
    while len(list(Path(f"/proc/{process.pid}/fd").iterdir())) > 40:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_what_is_not_http_is_answered_with_a_sentence(live):
    port, _ = live
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBroken\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
    ):
        with connected(port) as connection:
            connection.sendall(sent)
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.endswith(b'{"detail": "the request is not valid HTTP"}')


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(live):
    port, _ = live
    with connected(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 413 ")


def test_connections_beyond_the_limit_are_refused_and_served_again_later(live):
    port, _ = live
    with ExitStack() as held:
        for _ in range(12):
            held.enter_context(connected(port))
        with connected(port) as connection:
            assert received(connection).startswith(b"HTTP/1.1 503 ")
    wait_until_served(port)


def test_head_is_get_without_a_body(live):
    port, _ = live
    for path, status in ((b"/health", b"200"), (b"/", b"200"), (b"/api/search", b"405"), (b"/none", b"404")):
        with connected(port) as connection:
            connection.sendall(b"HEAD " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 " + status), path
        assert answer.endswith(b"\r\n\r\n"), path


def test_a_signal_ends_the_service_cleanly(live):
    port, process = live
    ask(port)
    with connected(port) as connection:
        connection.sendall(HEAD.replace(b"POST /api/search", b"GET /health") + b"\r\n")
        process.send_signal(signal.SIGTERM)
        assert received(connection).startswith(b"HTTP/1.1 200 ")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clients_that_still_send_are_told_that_the_service_stops(patient, number):
    """After 10 seconds at one signal; at once at a second Ctrl-C, of which the service speaks."""
    port, process = patient
    with connected(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n--x\r\n")
        time.sleep(0.5)
        process.send_signal(number)
        if number == signal.SIGINT:
            assert (
                process.stderr.readline() == "waiting for the requests under way (Ctrl-C again to stop at once) ...\n"
            )
            process.send_signal(number)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b'{"detail":"the service is stopping; try again in a moment"}')
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (0, "stopped\n")
    assert "Traceback" not in errors
    assert errors.count("\n") <= 2


def test_a_port_in_use_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError, match=rf"^127\.0\.0\.1:{port}: already in use; stop what uses it, or"):
            listen("127.0.0.1", port)
    with pytest.raises(AddressError, match="cannot be listened on"):
        listen("192.0.2.1", 8000)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_connections_beyond_the_open_files_are_one_line_in_the_log(toy_index, tmp_path):
    log, root = tmp_path / "log", Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.serving.service.live", str(toy_index), "{}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        port = int(process.stdout.readline())
        wait_until_served(port)
        ask(port)
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        most = max(map(int, os.listdir(f"/proc/{process.pid}/fd"))) + 1  # noqa: PTH208
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(connected(port))
            end = time.monotonic() + 60
            while not log.stat().st_size and time.monotonic() < end:
                time.sleep(0.05)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        ask(port)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    said = log.read_text().splitlines()
    assert said[0].endswith("Too many open files; allow more open files (ulimit -n)")
    assert len(said) <= 7  # one in ten seconds


@pytest.mark.parametrize("allowed", range(3))  # two threads that work, and one that learns distances
def test_a_thread_that_cannot_be_started_ends_the_service_with_its_error(index, monkeypatch, allowed):
    start, count = threading.Thread.start, itertools.count()

    def refused_later(thread):
        if next(count) >= allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    with listen("127.0.0.1", 0) as listener:
        app = create_app(index, ColorEmbedder())
        monkeypatch.setattr(threading.Thread, "start", refused_later)
        with pytest.raises(RuntimeError) as error:
            serve(app, listener, ServiceSettings(workers=2))
    assert describe(error.value).startswith("no thread can be started; ")
