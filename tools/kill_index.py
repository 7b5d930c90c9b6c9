"""Kill a process at random moments while it changes an index, and check each time what it has left.

Usage: ``python tools/kill_index.py [--moments 50] [--seed 0]``, from the root of the repository. The process adds,
removes, synchronizes and compacts; pictures are embedded by their mean colors, so that the right vector of each is
known. After each SIGKILL, everything that was acknowledged must be there with the right vector, `verify` must find no
problem, and a search must find exactly the items. The exit code is 1 if not.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ccpml.serving import Index
from tests.serving.changes import EMBEDDER
from tests.serving.kill import kill_and_check


def main() -> int:
    """Kill as often as requested."""
    parser = argparse.ArgumentParser(description="Kill a process that changes an index, and check what it has left.")
    parser.add_argument("--moments", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of changes and moments (default: 0)")
    parser.add_argument("--seconds", type=float, default=1.5, help="latest moment after the start (default: 1.5)")
    options = parser.parse_args()
    chance, place = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="killed-"))
    folder = place / "killed.index"
    Index.create(folder, EMBEDDER).close()
    for number in range(1, options.moments + 1):
        try:
            print(f"{number}/{options.moments} {kill_and_check(folder, chance, number, options.seconds)}", flush=True)
        except AssertionError as error:
            print(f"{number}/{options.moments} FAILED: {error}; what is left is in {place}")
            return 1
    print(f"{options.moments} kills with seed {options.seed}: nothing acknowledged was lost, no vector was wrong")
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
