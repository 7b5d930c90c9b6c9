"""Counters that are buffers, for checkpoints, and numbers of the host, so that no step waits for a device."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["HostCounts", "version_of"]


class HostCounts(nn.Module):
    """A module with counters: integer buffers, of which the host has a copy.

    The copy is read again where others have written to a buffer: a checkpoint, a rewind to earlier weights, or an
    average of the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}
        self._seen: dict[str, tuple[Tensor, int]] = {}  # the buffers, and their versions when the copies were made
        self.register_load_state_dict_post_hook(_read_counts)  # type: ignore[no-untyped-call]  # torch's is untyped

    def add_count(self, name: str, buffer: Tensor, value: Any) -> None:
        """Register a counter, and its value: an integer, or a list of them."""
        self.register_buffer(name, buffer)
        self.set_count(name, value)

    def set_count(self, name: str, value: Any) -> None:
        """Keep a value that was written to the buffer."""
        buffer = self.get_buffer(name)
        self._counts[name], self._seen[name] = value, (buffer, version_of(buffer))

    def count(self, name: str) -> Any:
        """Return the value of a counter: an integer, or a list of them."""
        buffer, (seen, version) = self.get_buffer(name), self._seen[name]
        if (buffer is not seen or version_of(buffer) != version) and not buffer.is_meta:
            self.set_count(name, buffer.tolist())
        return self._counts[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Keep the values: moving a buffer changes none, and memory that ``to_empty`` has made gets them."""
        current = {name: self.count(name) for name in self._counts}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's is untyped
        for name, value in current.items():
            buffer = self.get_buffer(name)
            if not buffer.is_inference():  # which cannot be written to
                buffer.copy_(buffer.new_tensor(value))
            self.set_count(name, value)
        return self


def version_of(tensor: Tensor) -> int:
    """Return a number that each write changes, but not one by ``.data``; 0 for tensors made in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def _read_counts(module: nn.Module, incompatible_keys: Any) -> None:
    """Read the counters of a loaded checkpoint."""
    assert isinstance(module, HostCounts)
    for name in module._counts:
        module.count(name)
