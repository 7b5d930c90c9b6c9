"""Let the system calls of a process that changes an index fail, one in each run, and check what it has left.

Usage: ``python tools/fail_index.py [--step 3]``, from the root of the repository; needs strace, which must be allowed
to trace. Each run creates an index, adds, replaces, synchronizes, removes and compacts, and one of its calls to write,
sync, cut off, rename or remove a file returns the error of a full or of a broken disk. The process must end with one
sentence, or finish if it does not depend on the call; the index must hold what was acknowledged, and `verify` must find
no problem. The exit code is 1 if not.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ccpml.cli.common.hints import describe
from ccpml.files import WriteError
from ccpml.serving import Index
from tests.serving.changes import EMBEDDER, change, check_log, state_of

CALLS: Final = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "mkdir", "unlink")
CHANGES: Final = (
    ("add", [0, 1, 2, 3], 1),
    ("add", [2, 3, 4], 2),
    ("sync", [0, 1, 2, 5], 3),
    ("remove", [0, 5], 4),
    ("compact", [], 5),
)


def main() -> int:
    """Let each call fail."""
    parser = argparse.ArgumentParser(description="Let system calls of a process that changes an index fail.")
    parser.add_argument("--step", type=int, default=1, help="every how many calls of a kind one fails (default: 1)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        return _make_changes(options.child)
    ends, failures = Counter[str](), 0
    for call in CALLS:
        for error in ("ENOSPC", "EIO"):
            before = ends.total()
            for number in range(1, 1000, options.step):
                outcome = _run(call, error, number)
                if outcome is None:
                    break
                ends[
                    "finished" if not outcome else "one sentence" if outcome.startswith("WriteError") else "WRONG"
                ] += 1
                if outcome and not outcome.startswith("WriteError"):
                    failures += 1
                    print(f"{call} {number}, {error}: {outcome}", flush=True)
            print(f"{call}, {error}: {ends.total() - before} runs", flush=True)
    print(", ".join(f"{count} {name}" for name, count in ends.items()))
    return min(failures, 1)


def _run(call: str, error: str, number: int) -> str | None:
    """Return the sentence of a run whose n-th call fails, or what is wrong; None if there are not so many calls."""
    with tempfile.TemporaryDirectory(prefix="failed-") as place:
        folder, trace = Path(place) / "x.index", Path(place) / "trace"
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
        child = [sys.executable, __file__, "--child", str(folder)]
        command = ["strace", "-f", "-qq", "-o", trace, *inject, *child]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if "INJECTED" not in trace.read_text():
            return None
        said = (ended.stdout + ended.stderr).strip()
        if "\n" in said:
            return f"more than a sentence: {said}"
        if folder.exists():
            try:
                with Index.open(folder, EMBEDDER) as index:
                    problems, found = index.verify().problems, state_of(index)
                if folder.with_suffix(".log").exists():
                    check_log(folder.with_suffix(".log"), found, {})
            except (AssertionError, ValueError) as wrong:
                return f"lost or wrong: {wrong}"
            if problems:
                return f"verify: {problems}"
        return said


def _make_changes(folder: Path) -> int:
    try:
        with Index.create(folder, EMBEDDER) as index, folder.with_suffix(".log").open("w") as log:
            for kind, numbers, version in CHANGES:
                rest = f"{kind} {version} {' '.join(map(str, numbers))}"
                print("begin", rest, file=log, flush=True)
                change(index, kind, numbers, version)
                print("done", rest, file=log, flush=True)
    except WriteError as error:
        print(f"{type(error).__name__} {describe(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
