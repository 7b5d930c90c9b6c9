"""A service under load: many clients at the same time, and what they wait.

Usage: ``python -m benchmarks.service [--run RUN --index INDEX] [--clients 64] [--seconds 60]``. Without a run, the
service is measured alone: pictures are embedded by their mean colors. Each client sends a photograph, waits for the
answer, and sends the next; so the rate is what the machine does, and the wait that of a queue of all other
clients. The memory is that of the service's process.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import print_table, versions

_FORM = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n%s\r\n--x--\r\n'
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Start a service, load it, and print what was measured."""
    parser = argparse.ArgumentParser(description="Measure a service under load.")
    parser.add_argument("--run", type=Path, help="run directory (default: an embedder without a network)")
    parser.add_argument("--index", type=Path, help="its index")
    parser.add_argument("--clients", type=int, default=64, help="clients at the same time (default: 64)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration (default: 60)")
    parser.add_argument("--side", type=int, default=400, help="shorter side of the photographs (default: 400)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        process, address = start(options, Path(place))
        try:
            result = load(address, process.pid, options)
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(versions("fastapi", "uvicorn", "starlette")))
    print_table(list(result), {"service": list(result.values())})
    return 1 if result["errors"] != "0" else 0


def start(options: argparse.Namespace, place: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start the service in a process of its own; return it and its address."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    if options.run is None:
        command = [sys.executable, "-m", "tests.serving.service.live", str(toy_index(place)), "{}"]
    else:
        command = [
            sys.executable,
            "-m",
            "ccpml.cli",
            "serve",
            str(options.index),
            "--run",
            str(options.run),
            "--port",
            "0",
        ]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = re.search(r"(\d+)(?: \(Ctrl-C stops\))?\n$", process.stdout.readline())
    assert port
    return process, f"127.0.0.1:{port[1]}"


def toy_index(place: Path) -> Path:
    """Return the directory of a small index."""
    from ccpml.serving import Index
    from tests.serving.embedders import ColorEmbedder
    from tests.toy import toy_folder

    with Index.create(place / "toy.index", ColorEmbedder()) as index:
        index.add(sorted(toy_folder(place / "photos").rglob("*.png")))
    return place / "toy.index"


def photographs(count: int, side: int) -> list[bytes]:
    """Return JPEG files of smooth noise."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (side * 4 // 3, side), Image.Resampling.BICUBIC
        )
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90)
        files.append(content.getvalue())
    return files


def load(address: str, pid: int, options: argparse.Namespace) -> dict[str, str]:
    """Make the clients search; return what was measured."""
    bodies = [_FORM % content for content in photographs(16, options.side)]
    waits, errors = list[float](), list[str]()
    ask(HTTPConnection(address, timeout=60), bodies[0])
    before, end = memory(pid), time.perf_counter() + options.seconds

    def client(number: int) -> None:
        connection = HTTPConnection(address, timeout=60)
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                ask(connection, bodies[number % 16])
            except (OSError, HTTPException, ValueError) as error:
                errors.append(repr(error))
            waits.append(time.perf_counter() - start)

    threads, most = [threading.Thread(target=client, args=(number,)) for number in range(options.clients)], before
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        most = max(most, memory(pid))
    if errors:
        print(errors[0], file=sys.stderr)
    p50, p99 = np.percentile(waits, [50, 99])
    return {
        "clients": str(options.clients),
        "searches": f"{len(waits):,}",
        "errors": str(len(errors)),
        "searches per second": f"{len(waits) / options.seconds:.1f}",
        "p50 (s)": f"{p50:.2f}",
        "p99 (s)": f"{p99:.2f}",
        "memory before (MiB)": f"{before:.0f}",
        "most (MiB)": f"{most:.0f}",
    }


def ask(connection: HTTPConnection, body: bytes) -> None:
    """Search; raise ValueError if there is no answer."""
    connection.request("POST", "/api/search", body, {"Content-Type": "multipart/form-data; boundary=x"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200 or not json.loads(content)["hits"]:
        raise ValueError(f"{response.status}: {content[:200]!r}")


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
