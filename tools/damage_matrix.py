"""Damage every file that commands leave, in every way, and run every verb that looks at it: see ``tests/damage``.

Usage: ``python tools/damage_matrix.py [--only PATTERN] [--seed N] [--alike N] [--most N] [--keep FOLDER]``, from the
root of the repository. Prints a line for each case in which a verb is silent, says nothing useful, or changes other
files; the exit code is 1 if there is one. With ``--keep``, the undamaged files, what the verbs look at, and what each
did in each case are kept in a folder; a later call goes on from there. It judges again what was done before, and tries
again what was wrong.
"""

import argparse
import contextlib
import gc
import importlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.damage.judge import Outcome, judge  # noqa: E402
from tests.damage.trace import LIBRARIES, Trace  # noqa: E402  # the line above makes them found
from tests.damage.world import Case, World, run_apart  # noqa: E402


def main() -> int:
    """Check all cases."""
    options = parse()
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
        log = keep / f"outcomes-{options.seed}.jsonl"
        done = _right(world, log)
        left = [case for case in chosen if str(case) not in done]
        print(f"{len(cases)} cases, {len(chosen)} chosen, {len(left)} left; {_seconds(start)}", flush=True)
        left = left[: options.most]
        wrong = [case for case in left if _check(world, case, options.seed, log)]
    print(f"{len(left)} cases in {_seconds(start)}: {len(wrong)} wrong")
    return min(len(wrong), 1)


def prepare(keep: Path) -> tuple[World, Callable[[Case], bool] | None]:
    """Return the undamaged files in a folder, made if necessary, and which cases look at their file."""
    whole, path, trace = keep / "whole", keep / "world", keep / "trace.txt"
    if whole.exists():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path, symlinks=True)
        world = World.open(path, apart=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
        world = World.build(path, more=True, apart=True)
        shutil.copytree(path, whole, symlinks=True)
    try:
        found = Trace.read(trace, world) if trace.exists() else Trace.of(world, trace)
        _import_all(world)
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
    parser.add_argument("--most", type=int, help="number of cases that are tried")
    parser.add_argument("--keep", type=Path, help="folder from which a later call goes on")
    return parser.parse_args()


def _import_all(world: World) -> None:
    """Import what the verbs import, so that their forks need not; what they do is done again, undamaged."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for verb in world.verbs:
        for name in _imported(world, verb):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    gc.freeze()


def _imported(world: World, verb: str) -> list[str]:
    """Return the modules that a fork imports for a verb, in their order."""
    before = {*sys.modules}

    def call() -> tuple[int, str]:
        world.run(verb)
        return 0, " ".join(name for name in sys.modules if name not in before)

    _, names = run_apart(call)
    world.restore()
    return names.split()


def _check(world: World, case: Case, seed: int, log: Path) -> str:
    outcome = world.outcome(case, seed)
    problem = judge(*case, world.whole(case.verb).outcome, outcome) if outcome else ""
    if problem:
        print(f"{case}: {' '.join(problem.split())[:600]}", flush=True)
    with log.open("a") as stream:
        stream.write(json.dumps([_commit(), *case, outcome]) + "\n")
    return problem


def _right(world: World, log: Path) -> set[str]:
    """Return the cases of a log that went well; print how many there are of each commit."""
    right = dict[str, str]()
    for line in log.read_text().splitlines() if log.exists() else ():
        commit, name, state, verb, outcome = json.loads(line)
        case = Case(name, state, verb)
        if outcome and judge(*case, world.whole(verb).outcome, Outcome(*outcome)):
            right.pop(str(case), None)
        else:
            right[str(case)] = commit
    for commit, count in Counter(right.values()).items():
        print(f"{count} cases went well at {commit}")
    return {*right}


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
