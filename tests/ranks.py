"""Run a function on the ranks of a gloo group, one process each."""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch

from tests import preloaded

ROOT = Path(__file__).parents[1]


def run_on_ranks(function, world_size, *args, timeout=300):
    """Return ``function(*args)`` of each rank, in the order of the ranks; raise if a rank fails or time is up.

    Args:
        function: A function at the top level of a module, so that it can be pickled, as can its result. Its group is
            ``torch.distributed.group.WORLD``.
        world_size: Number of ranks.
        args: Arguments of the function.
        timeout: Time limit in seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "call").write_bytes(pickle.dumps((function, args)))
        command = [sys.executable, "-m", "tests.ranks", name, str(world_size)]
        ranks = []
        try:
            for rank in range(world_size):
                with (folder / f"{rank}.txt").open("wb") as log:
                    ranks.append(preloaded.Popen([*command, str(rank)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
            end = time.monotonic() + timeout
            while any(rank.poll() is None for rank in ranks) and not any(rank.returncode for rank in ranks):
                if time.monotonic() > end:
                    raise TimeoutError(f"expected the ranks to end within {timeout} s")
                time.sleep(0.01)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert not any(rank.returncode for rank in ranks), "".join(map(Path.read_text, sorted(folder.glob("*.txt"))))
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _main(folder, world_size, rank):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    options = {"rank": rank, "world_size": world_size, "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", **options)
    function, args = pickle.loads((Path(folder) / "call").read_bytes())
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without waiting for gloo's threads, which can abort the end of the interpreter


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
