"""Run a function on the ranks of a gloo group, one process each."""

import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch


def run_on_ranks(function, world_size, *args, timeout=120):
    """Return ``function(*args)`` of each rank, in the order of the ranks; raise if a rank fails or time is up.

    Args:
        function: A function at the top level of a module, so that it can be pickled, as can its result. Its group is
            ``torch.distributed.group.WORLD``.
        world_size: Number of ranks.
        args: Arguments of the function.
        timeout: Time limit in seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawned = torch.multiprocessing.spawn(_rank, (world_size, folder, function, args), world_size, join=False)
        end = time.monotonic() + timeout
        try:
            while not spawned.join(timeout=1):
                if time.monotonic() > end:
                    raise TimeoutError(f"expected the ranks to end within {timeout} s")
        except torch.multiprocessing.ProcessRaisedException as failure:
            raise AssertionError(str(failure)) from None
        finally:
            for process in spawned.processes:
                process.kill()
                process.join()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank, world_size, folder, function, args):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    options = {"rank": rank, "world_size": world_size, "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", init_method=store, **options)
    try:
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without waiting for gloo's threads, which can abort the end of the interpreter
