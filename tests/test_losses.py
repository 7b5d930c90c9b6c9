"""The table of losses against the classes it names."""

import inspect
import math
from importlib import import_module

import pytest

from ccpml.losses import LOSSES, Parameter, find_loss, parameter_names
from ccpml.runs.build import build_criterion
from ccpml.runs.settings import Settings

EACH_PARAMETER = [(loss, name) for loss, entry in LOSSES.items() for name in entry.parameters]


def loss_class(loss):
    module, _, name = LOSSES[loss].path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_class_takes_the_parameters_of_the_table(loss):
    entry = LOSSES[loss]
    signature = inspect.signature(loss_class(loss)).parameters
    assert entry.parameters.keys() == signature.keys() - {"normalize", "num_classes", "embedding_dim"}
    assert ("num_classes" in signature) == entry.has_proxies
    assert entry.defaults.keys() == entry.parameters.keys()
    for name, default in entry.defaults.items():
        assert default == pytest.approx(signature[name].default)


@pytest.mark.parametrize(("loss", "name"), EACH_PARAMETER)
def test_the_class_accepts_what_the_table_accepts(loss, name):
    """Around each bound of the table, the class raises exactly where the table does."""
    entry = LOSSES[loss]
    parameter = entry.parameters[name]
    bounds = [bound for bound in (parameter.above, parameter.least, parameter.below) if math.isfinite(bound)]
    step = 1 if parameter.whole else 1e-3
    values = [bound + offset for bound in bounds for offset in (-step, 0, step)]
    for value in [int(v) if parameter.whole else v for v in values] + [math.nan, math.inf]:
        in_table = accepts(parameter.check, name, value)
        own = {"num_classes": 3, "embedding_dim": 2} if entry.has_proxies else {}
        assert accepts(loss_class(loss), **own, **{**entry.defaults, name: value}) == in_table, value


def accepts(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize("loss", LOSSES)
def test_each_method_of_a_loss_can_be_built(loss):
    for method in LOSSES[loss].methods:
        criterion = build_criterion(Settings(loss=loss, method=method).resolved(), num_classes=3)
        inner = getattr(criterion, "loss", criterion) if method != "plain" else criterion
        assert isinstance(inner, loss_class(loss))


def test_names_and_titles_are_unique():
    for attribute in ("title", "description"):
        values = [getattr(entry, attribute) for entry in LOSSES.values()]
        assert len(set(values)) == len(values)
    assert [find_loss(name) for name in ("C1", "c2", "ms", "triplet")] == [
        "cosine_contrastive",
        "contrastive",
        "multi_similarity",
        "triplet",
    ]
    with pytest.raises(ValueError, match=r"loss: expected one of contrastive \(c2\), .* got 'quadruplet'"):
        find_loss("quadruplet")


def test_a_parameter_has_one_type_in_all_losses():
    for name, losses in parameter_names().items():
        assert len({LOSSES[loss].parameters[name].whole for loss in losses}) == 1


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (Parameter("", above=0), 0.0, "x: expected a finite number > 0, got 0.0"),
        (Parameter("", least=0, below=1), 1.0, "x: expected a finite number >= 0 and < 1, got 1.0"),
        (Parameter("", least=1, whole=True), 1.5, "x: expected an integer >= 1, got 1.5"),
        (Parameter(""), "a", "x: expected a finite number, got 'a'"),
    ],
)
def test_errors_name_the_parameter_and_its_range(parameter, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        parameter.check("x", value)
