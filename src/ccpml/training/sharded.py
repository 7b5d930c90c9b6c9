"""Checkpoints of a training whose proxies are sharded over ranks; they load on any other number of ranks.

Tensors are written by `torch.distributed.checkpoint`, each rank its own part; numbers beside them as JSON. Nothing is
unpickled on the way back but descriptions of tensors.
"""

import json
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from ccpml.method import AlternatingProjections, CCPLoss

__all__ = ["load_sharded", "save_sharded"]

_TENSORS = {"anchor", "best", "best_proxies"}
_NUMBERS = "numbers.json"


def save_sharded(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, projections: AlternatingProjections | None = None
) -> None:
    """Write a checkpoint, each rank its own part of the proxies. All ranks call it.

    Args:
        path: A directory that is not there yet, seen by all ranks.
        module: Holds the network and the `CCPLoss`.
        optimizer: Of all their parameters.
        projections: The state machine of instances, if there is one.

    Raises:
        FileExistsError: If there is something at ``path``.

    Example:
        >>> import tempfile
        >>> from ccpml import ContrastiveLoss
        >>> module = nn.ModuleDict({"net": nn.Linear(3, 2), "loss": CCPLoss(ContrastiveLoss(), 5, 2, 1)})
        >>> optimizer = torch.optim.Adam(module.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sharded(Path(folder) / "step-100", module, optimizer)
        ...     load_sharded(Path(folder) / "step-100", module, optimizer)
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: there is something already; write the checkpoint to another place")
    sharding, (model, optim) = _Sharding(module), get_state_dict(module, optimizer)
    state = sharding.wrapped({"model": model, "optimizer": optim["state"]})
    numbers: dict[str, Any] = {"groups": [_plain(group) for group in optimizer.param_groups]}
    if projections is not None:
        own = projections.state_dict()
        state["projections"] = sharding.wrapped(
            {name: own[name] for name in _TENSORS if own[name] is not None and len(own[name])}
        )
        numbers["projections"] = {name: own[name] for name in own.keys() - _TENSORS}
        numbers["tensors"] = [name for name in _TENSORS if own[name] is not None and len(own[name])]
    partial = path.with_name(f".{path.name}.partial")
    with _quiet():
        save(state, storage_writer=FileSystemWriter(partial), no_dist=not _distributed())
    if not _distributed() or distributed.get_rank() == 0:
        (partial / _NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")
        partial.replace(path)
    if _distributed():
        distributed.barrier()


def load_sharded(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, projections: AlternatingProjections | None = None
) -> None:
    """Go on from a checkpoint that `save_sharded` wrote, on however many ranks; all of them call it.

    Args:
        path: The directory.
        module: As it was saved; its proxies may be sharded otherwise, or not at all.
        optimizer: As it was saved, before its first step.
        projections: As they were saved.

    Raises:
        FileNotFoundError: If there is no checkpoint at ``path``.
        ValueError: If it is damaged, or not of this training.
    """
    path = Path(path)
    if not (path / _NUMBERS).is_file():
        raise FileNotFoundError(f"{path}: no checkpoint is there (no {_NUMBERS})")
    sharding, (model, optim) = _Sharding(module), get_state_dict(module, optimizer)
    # Read into copies: where one part does not fit, nothing has changed.
    state = sharding.wrapped(_copied({"model": model, "optimizer": optim["state"]}))
    try:
        numbers = json.loads((path / _NUMBERS).read_text(encoding="utf-8"))
        groups, instance = numbers["groups"], numbers.get("projections")
        if len(groups) != len(optimizer.param_groups):
            raise ValueError(f"it has {len(groups)} groups of parameters, the optimiser {len(optimizer.param_groups)}")
        if projections is not None:
            if instance is None:
                raise ValueError("it was saved without projections")
            blank = projections.blank_state()
            state["projections"] = sharding.wrapped({name: blank[name] for name in numbers["tensors"]})
        _Reader(path).read_metadata()
        with _quiet():
            load(state, storage_reader=_Reader(path), no_dist=not _distributed())
    except (Exception, CheckpointException) as error:  # whatever a damaged one raises
        raise ValueError(f"{path}: not a checkpoint of this training, or damaged: {_reason(error)}") from error
    state = sharding.unwrapped(state)
    optim = {**optim, "state": state["optimizer"]}
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=optim)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})
    if projections is not None:
        nothing: dict[str, Any] = {"anchor": None, "best": {}, "best_proxies": None}
        projections.load_state_dict({**nothing, **instance, **state["projections"]})


def _copied(state: Any) -> Any:
    return {name: _copied(value) for name, value in state.items()} if isinstance(state, dict) else state.clone()


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Give the numbers of an optimiser's group, its pairs of numbers among them."""
    found = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | tuple)}


class _Sharding:
    """Which tensors are shards, and of what: those whose names end with that of a sharded `CCPLoss`'s proxies."""

    def __init__(self, module: nn.Module) -> None:
        criteria = [(name, part) for name, part in module.named_modules() if isinstance(part, CCPLoss)]
        self.criteria = {f"{name}.proxies".lstrip("."): part for name, part in criteria if part.group is not None}
        if self.criteria:
            self.criteria["best_proxies"] = next(iter(self.criteria.values()))

    def wrapped(self, state: Any, criterion: CCPLoss | None = None) -> Any:
        """Tell shards, their moments in the optimiser among them, from what is the same on each rank."""
        if isinstance(state, dict):
            return {name: self.wrapped(value, self.criteria.get(name, criterion)) for name, value in state.items()}
        return state if criterion is None or state.ndim != 3 else _global(state, criterion)

    def unwrapped(self, state: Any) -> Any:
        """Give the parts that are here."""
        if isinstance(state, dict):
            return {name: self.unwrapped(value) for name, value in state.items()}
        return state.to_local() if isinstance(state, DTensor) else state


def _global(local: Tensor, criterion: CCPLoss) -> Tensor:
    """Describe a rank's part (C, K, d) of what all ranks hold; it stays where it is in memory."""
    mesh = DeviceMesh.from_group(criterion.group, local.device.type)
    shape = torch.Size((criterion.num_classes, *local.shape[1:]))
    stride = (local.shape[1] * local.shape[2], local.shape[2], 1)
    return DTensor.from_local(
        local.detach().contiguous(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
    )


def _reason(error: BaseException) -> str:
    """Give the first line of an error, or of the first rank's."""
    causes = getattr(error, "failures", {})  # of the ranks, where it is one of theirs
    cause = next((failure[0] for failure in causes.values()), error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's warning that without ranks a checkpoint is that of one process, as is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Reader(FileSystemReader):
    """A reader that unpickles nothing but descriptions of tensors, whoever wrote the checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read what the checkpoint holds."""
        with Path(self.path, ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    _MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
    _NAMES = frozenset({("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict")})
    _PATHS = frozenset({"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"})

    def find_class(self, module: str, name: str) -> Any:
        of_torch = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        a_path = module.partition(".")[0] == "pathlib" and name in self._PATHS
        if of_torch or a_path or module in self._MODULES or (module, name) in self._NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")
