"""Send generated requests to a service, right and wrong ones, and compare each response with the OpenAPI description.

Usage: ``python tools/fuzz_service.py [--examples 200] [--seed 0]``, from the root of the repository. The service runs
in a process of its own, over a small index that may be written to; schemathesis makes the requests. A response that
is not as described, or a status 500, ends in exit code 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ccpml.serving import Index
from tests.serving.embedders import ColorEmbedder
from tests.toy import toy_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run schemathesis against a service."""
    parser = argparse.ArgumentParser(description="Send generated requests to a service.")
    parser.add_argument("--examples", type=int, default=200, help="requests of each kind per route (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzzed-") as place:
        folder = Path(place) / "fuzzed.index"
        with Index.create(folder, ColorEmbedder()) as index:
            index.add(sorted(toy_folder(Path(place) / "photos").rglob("*.png")))
        settings = {"writable": True, "feedback": True, "hosts": []}
        command = [sys.executable, "-m", "tests.serving.service.live", str(folder), json.dumps(settings)]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
        try:
            assert process.stdout
            return run(int(process.stdout.readline()), options.examples, options.seed)
        finally:
            process.terminate()
            process.wait()


def run(port: int, examples: int, seed: int) -> int:
    """Return the exit code of schemathesis."""
    checks = "positive_data_acceptance"  # generated text is seldom a picture or a filter
    command = ["schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", "all"]
    command += ["--exclude-checks", checks, "--mode", "all", "--max-examples", str(examples), "--seed", str(seed)]
    return subprocess.run([*command, "--continue-on-failure"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
