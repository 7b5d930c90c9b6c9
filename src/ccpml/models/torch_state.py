"""State of torch in the process, which belongs to the caller of the library."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch

__all__ = ["torch_defaults", "without_autocast"]


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Run a block with torch's own default device and dtype; then restore what the caller had, whatever the block set.

    Neither the autocast nor the inference mode of the caller holds within.

    Also restored are the random generators, from which every new network draws its first weights (those of GPUs if they
    have been used before), and the number of threads.

    Example:
        >>> before = torch.get_rng_state()
        >>> with torch_defaults():
        ...     layer = torch.nn.Linear(4, 2)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    # Without need, the context would make each call of torch a little slower.
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    try:
        torch.set_default_dtype(torch.float32)
        with on_cpu, torch.random.fork_rng(devices), torch.inference_mode(False), without_autocast():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def without_autocast() -> ExitStack:
    """Return a context in which the caller's autocast does not hold.

    Example:
        >>> with torch.autocast("cpu"), without_autocast():
        ...     (torch.ones(1, 2) @ torch.ones(2, 1)).dtype
        torch.float32
    """
    stack = ExitStack()
    for kind in ("cpu", "cuda", "mps"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
