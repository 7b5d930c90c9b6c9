"""Fixtures of the tests of models."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

_DECLARED: list[torch.library.Library] = []


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    """Import timm; declare the operators that a torchvision built for another torch lacks."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    for operator in ("nms", "qnms", None):
        try:
            return importlib.import_module("timm")
        except (ImportError, RuntimeError) as error:
            if operator is None or f"torchvision::{operator}" not in str(error):
                pytest.skip(f"timm cannot be imported: {error}")
        _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
        _DECLARED[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        forget("torchvision")
        forget("timm")
    raise AssertionError
