import inspect

import numpy as np
import pytest

from ccpml.losses import LOSSES
from ccpml.options import ProjectionOptions
from ccpml.runs.defaults import DataFacts
from ccpml.runs.settings import Settings, setting_types


def test_defaults_are_the_method_s():
    """The page of the method: λ = 2e-4, decay 1, patience 3, K = 8, b = 12, weights 0.1 and 1, batch 8 × 4."""
    e = Settings(data="cub").resolved()
    p = e.projections
    assert (p.strength, p.decay, p.patience, p.min_delta, e.patience) == (2e-4, 1.0, 3, 1e-5, 60)
    assert (e.proxies_per_class, e.pool_size, e.pair_weight, e.proxy_weight) == (8, 12, 0.1, 1.0)
    assert (e.classes_per_batch, e.samples_per_class, e.weight_decay, e.clip_norm) == (8, 4, 1e-4, 10.0)
    assert (e.pool_transform, p.space, p.rewind, p.reset_proxy_state) == ("train", "raw", False, False)
    assert (e.proxy_lr_factor, e.warmup_epochs, e.memory_start, e.lr_schedule) == (1.0, 0, 1000, "constant")
    assert (e.lr, e.image_size, e.augment, e.freeze_batchnorm) == (1e-5, 227, "paper", True)
    assert (e.head_start, p.warm_start, e.nearest_positives) == ("random", "never", "all")


def test_elsewhere_the_pair_term_weighs_as_much_and_the_start_is_warm():
    e = Settings(data="glyphs").resolved()
    assert (e.loss, e.pair_weight, e.projections.warm_start) == ("multi_similarity", 1.0, "auto")
    given = Settings(data="glyphs", pair_weight=0.1).changed({"projections.warm_start": 0}).resolved()
    assert (given.pair_weight, given.projections.warm_start) == (0.1, 0)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("contrastive", {"pos_margin": 0.0, "neg_margin": 0.3841}),
        ("cosine_contrastive", {"margin": 0.5}),
        ("triplet", {"margin": 0.0961}),
        ("multi_similarity", {"alpha": 2.0, "beta": 40.0, "base": 0.5}),
    ],
)
def test_loss_parameters_default_to_those_of_cub(loss, expected):
    assert Settings(loss=loss).resolved().loss_parameters == expected
    name = next(iter(expected))
    assert Settings(loss=loss, loss_parameters={name: 0.123}).resolved().loss_parameters == {**expected, name: 0.123}


def test_benchmarks_default_to_the_paper_s_settings():
    """The page of the method: K = 8, b = 12 for CUB and Cars196; K = 4, b = 7 for SOP and In-Shop; 25 or 250 steps."""
    expected = {"cub": (8, 12, 25), "cars196": (8, 12, 25), "sop": (4, 7, 250), "inshop": (4, 7, 250)}
    for data, sizes in expected.items():
        e = Settings(data=data).resolved()
        assert (e.proxies_per_class, e.pool_size, e.validate_every) == sizes
        assert (e.backbone, e.weights, e.embedding_dim, e.lr) == ("bn_inception", "imagenet", 128, 1e-5)
    assert Settings(data="cars196", loss="triplet").resolved().loss_parameters == {"margin": 0.1190}
    assert Settings(data="sop", backbone="small_conv").resolved().weights == "none"
    assert Settings(data="sop", backbone="resnet50").resolved().weights == "imagenet"


@pytest.mark.parametrize("loss", ["proxy_anchor", "proxy_nca", "soft_triple", "arcface", "subcenter_arcface"])
def test_rivals_train_as_their_papers_do(loss):
    """32 classes × 1 sample, one warm-up epoch, proxy learning rate × 100."""
    e = Settings(loss=loss, method="plain").resolved()
    assert (e.classes_per_batch, e.samples_per_class, e.warmup_epochs, e.proxy_lr_factor) == (32, 1, 1, 100.0)
    assert None not in e.loss_parameters.values()
    with pytest.raises(ValueError, match=f"method: expected plain for {loss}, which has proxies of its own, got ccp"):
        Settings(loss=loss, method="ccp")


@pytest.mark.parametrize("name", ["samples_per_class", "classes_per_batch"])
def test_a_pair_loss_alone_needs_pairs_in_the_batch(name):
    for loss in LOSSES:
        for method in LOSSES[loss].methods:
            if method == "plain" and not LOSSES[loss].has_proxies:
                with pytest.raises(
                    ValueError, match=f"^{name}: expected at least 2, as {loss} alone learns from pairs"
                ):
                    Settings(loss=loss, method=method, **{name: 1})
                Settings(loss=loss, method=method, **{name: 2}).resolved()
            else:  # proxies, or the memory, are compared with too
                Settings(loss=loss, method=method, **{name: 1}).resolved()
    facts = DataFacts(train_classes=2, classes=4)
    assert Settings(method="plain").resolved(facts).classes_per_batch == 2


def test_resolved_keeps_what_was_given_and_leaves_nothing_open_that_training_needs():
    e = Settings(lr=0.5, image_size=40).resolved()
    assert (e.lr, e.image_size) == (0.5, 40)
    assert e.resolved() == e
    assert None not in (e.max_steps, e.augment, e.freeze_batchnorm)
    assert Settings(epochs=1).resolved().epochs is None


def test_every_field_is_documented():
    documentation = inspect.getdoc(Settings)
    for name in Settings().as_dict():
        assert f"    {name}: " in documentation


def test_patterns_come_from_a_string_or_a_list():
    assert Settings(test_classes="Korean/*, Greek/*").resolved().test_classes == ["Korean/*", "Greek/*"]
    assert Settings(test_classes=["a,b"]).resolved().test_classes == ["a,b"]
    assert Settings().resolved().test_classes == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "triplet", "loss_parameters": {"alpha": 2.0}},
            r"alpha: expected a parameter of triplet \(margin\), got one of multi_similarity, proxy_anchor",
        ),
        (
            {"loss_parameters": {"depth": 2.0}},
            r"depth: expected a parameter of multi_similarity .*, got an unknown name",
        ),
        ({"loss": "quadruplet"}, r"loss: expected one of contrastive \(c2\), .*, got 'quadruplet'"),
        (
            {"loss": "c2", "loss_parameters": {"neg_margin": float("nan")}},
            "neg_margin: expected a finite number, got nan",
        ),
        (
            {"loss": "multi_similarity", "loss_parameters": {"alpha": 0.0}},
            "alpha: expected a finite number > 0",
        ),
        ({"fold": 4}, r"fold: expected one of 4 folds or fewer, 0\.\.3, got 4"),
        ({"fold": 3, "folds": 3}, r"fold: expected one of folds = 3, 0\.\.2, got 3"),
        ({"folds": 1}, "folds: expected at least 2, got 1"),
        ({"device": "quantum"}, "device: expected auto, cpu, cuda, cuda:<number> or mps, got 'quantum'"),
        (
            {"backbone": "resnet"},
            "backbone: expected one of small_conv, efficientnet_lite0, bn_inception, resnet50, timm:<name>, got ",
        ),
        ({"warmup_epochs": -1}, "warmup_epochs: expected an integer >= 0, got -1"),
        ({"proxy_lr_factor": 0.0}, "proxy_lr_factor: expected a finite number > 0, got 0.0"),
        ({"memory_batches": 0}, "memory_batches: expected at least 1, got 0"),
        ({"test_classes": ""}, "test_classes: expected patterns"),
        ({"max_steps": -1}, "max_steps: expected an integer >= 0, got -1"),
        ({"epochs": 0}, "epochs: expected a finite number > 0, got 0"),
        ({"threads": 10**6}, "threads: expected 1..1024, got 1000000"),
        ({"workers": 5000}, "workers: expected 0..1024, got 5000"),
        ({"trained_stages": -1}, "trained_stages: expected all, or at least 0, got -1"),
        ({"lr": -1.0}, "lr: expected a finite number > 0, got -1.0"),
        ({"lr": float("nan")}, "lr: expected a finite number > 0, got nan"),
        ({"nearest_positives": 0}, "nearest_positives: expected an integer >= 1, or all, got 0"),
        ({"nearest_positives": "some"}, "nearest_positives: expected an integer >= 1, or all, got 'some'"),
        ({"nearest_positives": 1.5}, "nearest_positives: expected an integer >= 1, or all, got 1.5"),
        ({"class_rate": 1.5}, r"class_rate: expected a fraction in \(0, 1\], got 1.5"),
        (
            {"shard_proxies": True},
            "shard_proxies: .*, got method ccp and ranks 1; under torchrun, set",
        ),
        ({"shard_proxies": True, "ranks": 2, "method": "plain"}, "shard_proxies: .*, got method plain and ranks 2"),
        ({"workers": -1}, "workers: expected 0..1024, got -1"),
        ({"skip_bad_images": "no"}, "skip_bad_images: expected true or false, got 'no'"),
        ({"freeze_batchnorm": 0}, "freeze_batchnorm: expected true or false or null, got 0"),
        ({"pooling": "sum"}, r"pooling: expected avg, max or avg\+max, got 'sum'"),
        ({"embedding_dim": 8.5}, "embedding_dim: expected int, got 8.5"),
        ({"image_size": "64"}, "image_size: expected at least 1, got '64'"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"data": None}, "data: expected str, got None"),
        ({"projections": {"patience": 2}}, r"projections: expected ProjectionOptions, got {'patience': 2}"),
        ({"loss_parameters": None}, "loss_parameters: expected numbers by name, got None"),
        ({"test_classes": [1]}, "test_classes: expected "),
        ({"seed": -1}, r"seed: expected 0\.\.2147483647, got -1"),
        ({"proxies_per_class": 9, "pool_size": 8}, "proxies_per_class: expected at most pool_size = 8, got 9"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_more_proxies_than_the_data_s_pool_is_an_error_when_resolved():
    with pytest.raises(ValueError, match="proxies_per_class: expected at most pool_size = 7, got 8"):
        Settings(data="sop", proxies_per_class=8).resolved()


@pytest.mark.parametrize("loss", LOSSES)
def test_settings_survive_a_round_trip_through_plain_values(loss):
    settings = Settings(loss=loss, method=LOSSES[loss].methods[0], projections=ProjectionOptions(space="lipschitz"))
    assert Settings.from_dict(settings.as_dict()) == settings
    assert type(settings.resolved()).from_dict(settings.resolved().as_dict()) == settings.resolved()


def test_settings_change_by_their_flat_names():
    settings = Settings(loss="triplet", loss_parameters={"margin": 0.2})
    changed = settings.changed({"margin": 0.3, "lr": 0.1, "projections.rewind": True})
    assert (changed.loss_parameters, changed.lr, changed.projections.rewind) == ({"margin": 0.3}, 0.1, True)
    assert settings.changed({"loss": "contrastive"}).loss_parameters == {}
    assert set(settings.resolved().flat()) <= set(setting_types())


def test_no_resolved_setting_is_none():
    for loss, entry in LOSSES.items():
        for method in entry.methods:
            values = Settings(loss=loss, method=method).resolved().flat()
            assert [name for name, value in values.items() if value is None] == ["epochs"]


def test_short_names_of_losses_are_names():
    assert Settings(loss="ms") == Settings(loss="multi_similarity")
    assert Settings().changed({"loss": "C1"}).loss == "cosine_contrastive"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "projections: expected options by name, got 3"),
        ({"patience": 0}, "projections.patience: expected an integer >= 1, got 0"),
        ({"rewind": "no"}, "projections.rewind: expected True or False, got 'no'"),
        ({"depth": 1}, "unknown settings: projections.depth"),
    ],
)
def test_wrong_options_of_the_projections_are_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings.from_dict({"projections": values})
    if isinstance(values, dict):
        with pytest.raises(ValueError, match=f"^{message}$"):
            Settings().changed({f"projections.{name}": value for name, value in values.items()})


def test_names_of_classes_may_be_texts_of_numpy():
    settings = Settings(test_classes=[np.str_("a"), np.str_("b/*")])
    assert [type(pattern) for pattern in settings.test_patterns()] == [str, str]
    assert {type(pattern) for pattern in settings.resolved().test_classes} == {str}
