"""Damage every file that commands leave, in every way, and run every verb that may read it: see ``tests/damage.py``.

Usage: ``python tools/damage_matrix.py [--only PATTERN]``, from the root of the repository. Prints a line for each
case in which a verb is silent, says nothing useful, or changes other files; the exit code is 1 if there is one.
"""

import argparse
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.damage import World


def main() -> int:
    """Check all cases."""
    parser = argparse.ArgumentParser(description="Damage every file that commands leave, before every verb.")
    parser.add_argument("--only", default="", help="cases whose 'file state verb' match this regular expression")
    only = parser.parse_args().only
    warnings.filterwarnings("ignore")
    started, wrong, count = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        world = World.build(Path(folder) / "world")
        print(f"{len(world.files)} files, built in {time.monotonic() - started:.1f} s", flush=True)
        for name, state, verb in world.cases():
            if not re.search(only, f"{name} {state} {verb}"):
                continue
            count += 1
            problem = world.check(name, state, verb)
            if problem:
                wrong += 1
                print(f"{name}, {state}, {verb}: {' '.join(problem.split())[:600]}", flush=True)
    print(f"{count} cases in {time.monotonic() - started:.0f} s: {wrong} wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
