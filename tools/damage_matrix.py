"""Damage every file that commands leave, in every way, and run every verb that looks at it: see ``tests/damage``.

Usage: ``python tools/damage_matrix.py [--only PATTERN] [--seed N] [--alike N] [--keep FOLDER]``, from the root of the
repository. Prints a line for each case in which a verb is silent, says nothing useful, or changes other files; the
exit code is 1 if there is one. With ``--keep``, the undamaged files, what the verbs look at, and the cases that went
well are kept in a folder, and a later call goes on from there.
"""

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

_LIMIT = 180
"""Seconds after which a verb counts as one that hangs."""


class HangError(BaseException):
    """A verb does not end."""


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.damage.trace import Trace  # noqa: E402  # the line above makes them found
from tests.damage.world import Case, World  # noqa: E402


def main() -> int:
    """Check all cases."""
    options = parse()
    signal.signal(signal.SIGALRM, _hang)
    warnings.filterwarnings("ignore")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder)
        world, reads = prepare(keep)
        print(f"{len(world.files)} files, {len(world.folders)} folders, {len(world.verbs)} verbs", flush=True)
        chance = random.Random(options.seed)
        cases = [*world.cases(reads, options.alike, chance)]
        chance.shuffle(cases)  # so that those that are tried first are a sample
        chosen = [case for case in cases if re.search(options.only, str(case))]
        log = keep / f"right-{options.seed}.txt"
        done = _read(log)
        left = [case for case in chosen if str(case) not in done]
        print(f"{len(cases)} cases, {len(chosen)} chosen, {len(left)} left; {_seconds(start)}", flush=True)
        wrong = [case for case in left if _check(world, case, options.seed, log)]
    print(f"{len(left)} cases in {_seconds(start)}: {len(wrong)} wrong")
    return min(len(wrong), 1)


def prepare(keep: Path) -> tuple[World, Callable[[Case], bool] | None]:
    """Return the undamaged files in a folder, made if necessary, and which cases look at their file."""
    whole, path, trace = keep / "whole", keep / "world", keep / "trace.txt"
    if whole.exists():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path, symlinks=True)
        world = World.open(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
        world = World.build(path, more=True)
        shutil.copytree(path, whole, symlinks=True)
    try:
        found = Trace.read(trace, world) if trace.exists() else Trace.of(world, trace)
    except OSError as error:
        print(f"{error}; each verb is run with each file below a path that it is given", flush=True)
        return world, None
    return world, found.reads


def parse() -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description="Damage every file that commands leave, before every verb.")
    parser.add_argument("--only", default="", help="cases whose 'file state verb' match this regular expression")
    parser.add_argument("--seed", type=int, default=0, help="where files are cut, and which bits are flipped")
    parser.add_argument("--alike", type=int, default=2, help="of files that differ in digits only, how many are taken")
    parser.add_argument("--keep", type=Path, help="folder from which a later call goes on")
    return parser.parse_args()


def _hang(*_: object) -> None:
    raise HangError("the verb does not end")


def _check(world: World, case: Case, seed: int, log: Path) -> str:
    signal.alarm(_LIMIT)
    problem = world.check(case, seed)
    signal.alarm(0)
    if problem:
        print(f"{case}: {' '.join(problem.split())[:600]}", flush=True)
    else:
        with log.open("a") as stream:
            stream.write(f"{_commit()} {case}\n")
    return problem


def _read(log: Path) -> set[str]:
    """Return the cases of a log; print how many there are of each commit."""
    if not log.exists():
        return set()
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    for commit, count in Counter(commit for commit, _, _ in lines).items():
        print(f"{count} cases went well at {commit}")
    return {case for _, _, case in lines}


@cache
def _commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
