import argparse
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ccpml.models import create_model, load_weights
from ccpml.models.tensor_file import write_tensors


def net() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), conv_bn=nn.BatchNorm2d(4)))


def state() -> dict[str, Tensor]:
    module = net()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_()
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("form", ["safetensors", "pth", "pt", "before torch 1.6"])
def test_formats(tmp_path: Path, form: str) -> None:
    weights, module = state(), net()
    path = tmp_path / ("weights.pth" if " " in form else f"weights.{form}")
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=" " not in form)
    load_weights(module, str(path) if form == "pt" else path)
    assert same(module, weights)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("conv.weight", lambda tensor: tensor.long(), r"1 not of real numbers \(conv.weight\)"),
        ("conv.weight", lambda tensor: tensor.to(torch.complex64), r"1 not of real numbers \(conv.weight\)"),
        ("conv_bn.running_var", lambda tensor: -tensor - 1, r"1 negative \(conv_bn.running_var\)"),
    ],
)
def test_invalid_values_are_named(path: Path, key: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    torch.save({**state(), key: change(state()[key])}, path)
    with pytest.raises(ValueError, match=message):
        load_weights(net(), path)


def test_parameters_stay_the_same_objects(path: Path) -> None:
    torch.save(state(), path)
    module = net()
    before = list(module.parameters())
    load_weights(module, path)
    assert all(a is b for a, b in zip(before, module.parameters(), strict=True))


def test_all_conventions_at_once(path: Path) -> None:
    """A wrapping, the prefix of DataParallel, a head, vectors of (1, C), no num_batches_tracked."""
    weights, module = state(), net()
    published = {
        f"module.{name}": tensor[None] if "_bn." in name else tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    published |= {"module.last_linear.weight": torch.zeros(10, 4), "module.last_linear.bias": torch.zeros(10)}
    torch.save({"epoch": 3, "state_dict": published}, path)
    load_weights(module, path)
    assert same(module, weights)


@pytest.mark.parametrize("head", ["last_linear", "fc", "classifier", "head", "linear", "dino_head", "ibot_head"])
def test_head_is_ignored_only_if_the_module_has_none(path: Path, head: str) -> None:
    weights = {"body.weight": torch.ones(2, 3), f"{head}.weight": torch.ones(5, 2)}
    torch.save(weights, path)
    body = nn.Linear(3, 2, bias=False)
    load_weights(nn.ModuleDict({"body": body}), path)
    assert torch.equal(body.weight, weights["body.weight"])
    with_head = nn.ModuleDict({"body": body, head: nn.Linear(2, 7, bias=False)})
    with pytest.raises(ValueError, match=rf"1 mis-shaped \({head}.weight \(5, 2\) instead of \(7, 2\)\)"):
        load_weights(with_head, path)


def test_module_named_like_a_prefix(path: Path) -> None:
    module = nn.ModuleDict({"module": nn.Linear(3, 2)})
    weights = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    torch.save(weights, path)
    load_weights(module, path)
    assert same(module, weights)


@pytest.mark.parametrize("wrapping", ["state_dict", "model", "model_state_dict", "teacher"])
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.backbone.", "model.backbone._orig_mod."],
)
def test_training_checkpoints(path: Path, wrapping: str, prefix: str) -> None:
    """With counters, the state of the optimizer, arguments and a head without prefix beside the weights."""
    weights, module = state(), net()
    published = {f"{prefix}{name}": tensor for name, tensor in weights.items()} | {"fc.weight": torch.zeros(10, 4)}
    rest = {"epoch": 3, "args": argparse.Namespace(lr=0.1, arch="vit"), "optimizer": {"state": {0: torch.zeros(2)}}}
    torch.save({wrapping: published, **rest}, path)
    load_weights(module, path)
    assert same(module, weights)


def test_prefix_of_only_some_keys_is_not_removed(path: Path) -> None:
    weights = state()
    torch.save({f"backbone.{name}" if "bn" in name else name: tensor for name, tensor in weights.items()}, path)
    with pytest.raises(ValueError, match=r"4 missing \(conv_bn.weight, .*5 unexpected \(backbone.conv_bn.weight, "):
        load_weights(net(), path)


class Python2(pickle._Pickler):
    """Pickle as Python 2 did: text as byte strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str) -> None:
        self.write(b"U" + bytes([len(text)]) + text.encode())
        self.memoize(text)

    dispatch[str] = save_string

    def persistent_id(self, value: object) -> object:
        return value.key if isinstance(value, Storage) else None


class Storage:
    def __init__(self, tensor: Tensor, number: int) -> None:
        self.key = ("storage", torch.FloatStorage, str(number), "cpu", tensor.numel(), None)


class Saved:
    """A tensor as reduced by torch 0.2."""

    def __init__(self, tensor: Tensor, number: int) -> None:
        self.tensor, self.storage = tensor, Storage(tensor, number)

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = torch._utils._rebuild_tensor
        return rebuild, (self.storage, 0, tuple(self.tensor.shape), self.tensor.stride())


class Ordered:
    """An OrderedDict as reduced by Python 2."""

    def __init__(self, items: Iterable[list[object]]) -> None:
        self.items = list(items)

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (self.items,)


def test_file_of_torch_in_python_2(path: Path) -> None:
    """The format of BN-Inception's published file: no zip, byte strings, vectors of (1, C)."""
    weights, module = state(), net()
    tensors = {
        name: tensor[None].contiguous() if "_bn." in name else tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    saved = Ordered([name, Saved(tensor, number)] for number, (name, tensor) in enumerate(tensors.items()))
    with path.open("wb") as file:
        sizes = {"short": 2, "int": 4, "long": 8}
        about = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
        for part in (0x1950A86A20F9469CFC6C, 1001, about, saved, [str(number) for number in range(len(tensors))]):
            Python2(file, protocol=2).dump(part)
        for tensor in tensors.values():
            file.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
    assert b"U" + bytes([len("conv.weight")]) + b"conv.weight" in path.read_bytes()
    load_weights(module, path)
    assert same(module, weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_not_finite_are_named(path: Path, value: float) -> None:
    weights = state()
    weights["conv.bias"][1] = value
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"does not fit .*: 1 not finite \(conv.bias\); restore the file from a copy$"):
        load_weights(net(), path)


def test_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    weights, module = state(), net()
    torch.save(weights, tmp_path / "mine.pth.tar")
    load_weights(module, "~/mine.pth.tar")
    assert same(module, weights)


def test_differences_are_listed_and_nothing_changes(path: Path) -> None:
    weights = state()
    weights["convolution.bias"] = weights.pop("conv.bias")
    weights["conv_bn.weight"] = torch.zeros(5)
    torch.save(weights, path)
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit Sequential") as caught:
        load_weights(module, path)
    assert str(caught.value) == (
        f"weights: {path} does not fit Sequential: 1 missing (conv.bias); 1 unexpected (convolution.bias); "
        "1 mis-shaped (conv_bn.weight (5,) instead of (4,)); choose the backbone, the channels and the options that "
        "the weights are of"
    )
    assert same(module, before)


def test_long_lists_are_shortened(path: Path) -> None:
    torch.save({f"part{i}": torch.zeros(1) for i in range(12)}, path)
    with pytest.raises(ValueError, match=r"12 unexpected \(part0, .*, part9, \.\.\.\)"):
        load_weights(nn.Identity(), path)


def test_empty_state_dict(path: Path) -> None:
    torch.save({}, path)
    with pytest.raises(ValueError, match="6 missing"):
        load_weights(net(), path)


class Trap:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the file ran code",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "file not found"),
        (b"", "cannot be read: damaged, or contains more than tensors"),
        (b"not weights at all", "cannot be read: damaged, or contains more than tensors"),
        (pickle.dumps({"conv.weight": Trap()}), "cannot be read: damaged, or contains more than tensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes | None, reason: str, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name}") as caught:
        load_weights(net(), path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_weights_of_a_run_is_noticed(tmp_path: Path) -> None:
    path, own = tmp_path / "best.safetensors", net()
    write_tensors(path, own.state_dict(), {})
    load_weights(net(), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(ValueError, match=r"best.safetensors cannot be read: damaged.*; restore it from a copy"):
        load_weights(own, path)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize("content", [Trap(), net(), [torch.zeros(1)], {"conv.weight": 1.0}, {"epoch": 1, "model": {}}])
def test_more_than_tensors(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights: .*weights\.pth"):
        load_weights(net(), path)


def test_folder_or_other_file_type(tmp_path: Path) -> None:
    folder = tmp_path / "weights.pth"
    folder.mkdir()
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        load_weights(net(), folder)
    with pytest.raises(ValueError, match=r"expected a \.safetensors, \.pth or \.pt file, got .*weights\.h5"):
        load_weights(net(), tmp_path / "weights.h5")


def test_truncated_file_changes_nothing(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        if suffix == ".pth":
            torch.save(state(), path)
        else:
            safetensors.torch.save_file(state(), path)
        path.write_bytes(path.read_bytes()[:-200])
        module = net()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(ValueError, match="cannot be read: damaged"):
            load_weights(module, path)
        assert same(module, before)


def test_the_weights_of_a_run_load_into_its_whole_network_and_into_its_backbone(tmp_path: Path) -> None:
    trained = create_model("small_conv", embedding_dim=8)
    weights = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({**weights, "criterion.proxies": torch.zeros(2, 2, 8)}, tmp_path / "run.ckpt")
    whole, backbone = create_model("small_conv", embedding_dim=8), create_model("small_conv", embedding_dim=3).backbone
    load_weights(whole, tmp_path / "run.ckpt")
    load_weights(backbone, tmp_path / "run.ckpt")
    assert same(whole, trained.state_dict())
    assert same(backbone, trained.backbone.state_dict())
    with pytest.raises(ValueError, match=r"mis-shaped \(linear.weight"):
        load_weights(create_model("small_conv", embedding_dim=3), tmp_path / "run.ckpt")
