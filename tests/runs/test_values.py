import pytest

from ccpml.runs.settings import Settings, setting_types
from ccpml.runs.values import differences, is_numeric, read_value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", "null", None),
        ("projections.strength", "0", 0.0),
        ("projections.strength", 0, 0.0),
        ("projections.rewind", "true", True),
        ("centers_per_class", "3", 3),
        ("channels", "1", 1),
        ("channels", "auto", "auto"),
        ("pooling", "avg+max", "avg+max"),
        ("backbone", "timm:vit", "timm:vit"),
        ("weights", "a: b", "a: b"),
        ("data_root", "", ""),  # as in the settings of a run whose data has no root
        ("test_classes", "[ab]*", "[ab]*"),
        ("test_classes", ["a", "b"], ["a", "b"]),
    ],
)
def test_values_have_the_type_of_their_setting(name, value, expected):
    found = read_value(name, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "fast", "lr: expected float or null, got 'fast'"),
        ("lr", True, "lr: expected float or null, got True"),
        ("proxies_per_class", "1.5", "proxies_per_class: expected int or null, got '1.5'"),
        ("embedding_dim", None, "embedding_dim: expected int, got None"),
        ("projections.rewind", "1", "projections.rewind: expected true or false, got '1'"),
        ("pooling", "sum", "pooling: expected avg, max or avg[+]max, got 'sum'"),
        ("channels", "2", "channels: expected 1, 3 or auto, got '2'"),
    ],
)
def test_values_of_another_type_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        read_value(name, value)


def test_numeric_settings_include_parameters_of_losses_and_options_of_the_projections():
    numeric = set(filter(is_numeric, setting_types()))
    assert {"lr", "margin", "memory_batches", "projections.strength", "seed", "centers_per_class", "fold"} <= numeric
    assert not {"projections.rewind", "projections.space", "data", "loss", "test_classes", "compile"} & numeric


def test_differences_include_settings_that_only_one_side_has():
    before = Settings(loss="triplet", loss_parameters={"margin": 0.2}).flat()
    assert differences(before, Settings(loss="triplet", device="cpu").flat()) == ["margin: was 0.2, is None"]


def test_a_removed_setting_without_effect_is_no_difference():
    assert differences({"lr": 1.0, "lr_warmup": 0.0, "ema": 0.0}, {"lr": 1.0}) == []
    assert differences({"lr_warmup": None}, {}) == []
    assert differences({"lr_warmup": 0.05}, {}) == ["lr_warmup: was 0.05, is 0.0"]
