"""Refuse operations for which the host would wait for an accelerator."""

from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONIZING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique", "is_nonzero"}


class NoSynchronization(TorchDispatchMode):
    """Raise AssertionError on operations whose result, or its shape, the host would have to read."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in SYNCHRONIZING, name
        return function(*args, **(kwargs or {}))
