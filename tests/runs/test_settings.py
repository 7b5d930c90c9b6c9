import inspect

import pytest

from ccpml.runs.settings import LOSS_PARAMETERS, Experiment


def test_defaults_are_the_method_s():
    """The page of the method: λ = 2e-4, decay 1, patience 3, K = 8, b = 12, weights 0.1 and 1, batch 8 × 4."""
    e = Experiment().resolved()
    assert (e.strength, e.decay, e.instance_patience, e.min_delta, e.patience) == (2e-4, 1.0, 3, 1e-5, 60)
    assert (e.proxies_per_class, e.pool_size, e.pair_weight, e.proxy_weight) == (8, 12, 0.1, 1.0)
    assert (e.classes_per_batch, e.samples_per_class, e.weight_decay, e.clip_norm) == (8, 4, 1e-4, 10.0)
    assert (e.pool_transform, e.center_space, e.rewind, e.reset_proxy_state) == ("train", "raw", False, False)
    assert (e.proxy_lr_factor, e.warmup_epochs, e.memory_start, e.lr_schedule) == (1.0, 0, 1000, "constant")
    paper = Experiment(backbone="bn_inception").resolved()
    assert (paper.lr, paper.image_size, paper.augment, paper.freeze_batchnorm) == (1e-5, 227, "paper", True)


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
    assert Experiment(loss=loss).loss_parameters() == expected
    name = next(iter(expected))
    assert Experiment(loss=loss, **{name: 0.123}).loss_parameters() == {**expected, name: 0.123}


def test_benchmarks_default_to_the_paper_s_settings():
    """The page of the method: K = 8, b = 12 for CUB and Cars196; K = 4, b = 7 for SOP and In-Shop; 25 or 250 steps."""
    expected = {"cub": (8, 12, 25), "cars196": (8, 12, 25), "sop": (4, 7, 250), "inshop": (4, 7, 250)}
    for data, sizes in expected.items():
        e = Experiment(data=data).resolved()
        assert (e.proxies_per_class, e.pool_size, e.validate_every) == sizes
        assert (e.backbone, e.weights, e.embedding_dim, e.lr) == ("bn_inception", "imagenet", 128, 1e-5)
    assert Experiment(data="cars196", loss="triplet").loss_parameters() == {"margin": 0.1190}
    assert Experiment(data="sop", backbone="small_conv").resolved().weights == "none"
    assert Experiment(data="sop", backbone="resnet50").resolved().weights == "imagenet"


@pytest.mark.parametrize("loss", ["proxy_anchor", "proxy_nca", "soft_triple", "arcface", "subcenter_arcface"])
def test_rivals_train_as_their_papers_do(loss):
    """32 classes × 1 sample, one warm-up epoch, proxy learning rate × 100."""
    e = Experiment(loss=loss, method="plain").resolved()
    assert (e.classes_per_batch, e.samples_per_class, e.warmup_epochs, e.proxy_lr_factor) == (32, 1, 1, 100.0)
    assert None not in e.loss_parameters().values()
    with pytest.raises(ValueError, match=f"method: {loss} has proxies of its own"):
        Experiment(loss=loss, method="ccp")


def test_resolved_keeps_what_was_given_and_leaves_nothing_open_that_training_needs():
    e = Experiment(lr=0.5, image_size=40).resolved()
    assert (e.lr, e.image_size) == (0.5, 40)
    assert e.resolved() == e
    assert None not in (e.max_steps, e.augment, e.freeze_batchnorm)


def test_every_field_is_documented():
    documentation = inspect.getdoc(Experiment)
    for name in Experiment().as_dict():
        assert f"    {name}: " in documentation


def test_patterns_come_from_a_string_or_a_list():
    assert Experiment(test_classes="Korean/*, Greek/*").test_patterns() == ["Korean/*", "Greek/*"]
    assert Experiment(test_classes=["a,b"]).test_patterns() == ["a,b"]
    assert Experiment().test_patterns() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "triplet", "alpha": 2.0}, "alpha: is of the loss multi_similarity; triplet takes margin"),
        ({"neg_margin": float("nan")}, "neg_margin: expected a finite number, got nan"),
        ({"loss": "multi_similarity", "alpha": 0.0}, "alpha: expected a number above 0, got 0.0"),
        ({"fold": 4}, "folds, fold: expected two folds or more, and one of them, got 4 and 4"),
        ({"device": "quantum"}, "device: expected auto, cpu, cuda, cuda:<number> or mps, got 'quantum'"),
        ({"backbone": "resnet"}, "backbone: expected small_conv, bn_inception, resnet50 or timm:<name>, got 'resnet'"),
        ({"warmup_epochs": -1}, "warmup_epochs: expected 0 or more, got -1"),
        ({"proxy_lr_factor": 0.0}, "proxy_lr_factor: expected a number above 0, got 0.0"),
        ({"memory_batches": 0}, "memory_batches: expected at least 1, got 0"),
        ({"test_classes": ""}, "test_classes: expected patterns"),
        ({"max_steps": 0}, "max_steps: expected at least 1, got 0"),
        ({"lr": -1.0}, "lr: expected a number above 0, got -1.0"),
        ({"lr": float("nan")}, "lr: expected a number above 0, got nan"),
        ({"strength": -1e-4}, "strength: expected 0 or more"),
        ({"workers": -1}, "workers: expected 0 or more"),
        ({"seed": -1}, r"seed: expected 0\.\.2147483647, got -1"),
        ({"proxies_per_class": 9, "pool_size": 8}, "proxies_per_class: expected at most pool_size = 8, got 9"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


def test_more_proxies_than_the_data_s_pool_is_an_error_when_resolved():
    with pytest.raises(ValueError, match="proxies_per_class: expected at most pool_size = 7, got 8"):
        Experiment(data="sop", proxies_per_class=8).resolved()


def test_parameters_belong_to_a_loss():
    assert all(hasattr(Experiment(), name) for names in LOSS_PARAMETERS.values() for name in names)
