"""Run a function on the ranks of a gloo group, each a process of its own."""

import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch


def run_on_ranks(function, world_size, *args, timeout=120):
    """Give ``function(*args)`` of every rank, in their order; whatever fails on a rank, or takes too long, fails here.

    Args:
        function: A module's own function, so that it can be sent to a process. It finds the group as
            ``torch.distributed.group.WORLD``; what it returns must pickle.
        world_size: How many ranks.
        args: Its arguments.
        timeout: Seconds that all of it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawned = torch.multiprocessing.spawn(_rank, (world_size, folder, function, args), world_size, join=False)
        end = time.monotonic() + timeout
        try:
            while not spawned.join(timeout=1):
                if time.monotonic() > end:
                    raise TimeoutError(f"the ranks took longer than {timeout} s")
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
    os._exit(0)  # gloo's threads outlive a group that something still holds, and one that wakes up late aborts the end
