import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ccpml import CCPLoss, ContrastiveLoss, evaluate, lipschitz_normalize
from ccpml.training import MetricLearning, evaluate_with_roles

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def make(**options):
    criterion = CCPLoss(ContrastiveLoss(), num_classes=4, embedding_dim=3, proxies_per_class=2)
    return MetricLearning(nn.Linear(5, 3), criterion, lr=1e-2, **options)


@pytest.mark.parametrize("is_query", [None, torch.arange(40) % 3 == 0])
def test_validation_scores_are_those_of_evaluate(is_query):
    module = make(is_query=is_query)
    x, y = torch.randn(40, 5), torch.arange(40) % 4
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    (logged,) = trainer.validate(module, loader, verbose=False)
    with torch.no_grad():
        e = lipschitz_normalize(module(x))
    expected = evaluate(e, y) if is_query is None else evaluate(e[is_query], y[is_query], e[~is_query], y[~is_query])
    (tested,) = trainer.test(module, loader, verbose=False)
    for name in ("map_at_r", "precision_at_1", "r_precision"):
        assert logged[name] == tested[f"test_{name}"] == pytest.approx(getattr(expected, name), rel=1e-6)
    for batches in (trainer.predict(module, loader), trainer.predict(module, DataLoader(x, batch_size=16))):
        torch.testing.assert_close(lipschitz_normalize(torch.cat(batches)), e)
    embeddings, labels = module.validation
    torch.testing.assert_close(lipschitz_normalize(embeddings), e)
    assert torch.equal(labels, y)


def test_the_optimizer_trains_network_and_proxies_alike():
    module = make(weight_decay=0.5)
    module.model.bias.requires_grad_(False)
    optimizer = module.configure_optimizers()
    network, proxies = optimizer.param_groups
    assert [id(p) for p in network["params"]] == [id(module.model.weight)]
    assert [id(p) for p in proxies["params"]] == [id(module.criterion.proxies)]
    for group in (network, proxies):
        assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-2, 0.5, (0.9, 0.999))


def test_proxies_can_have_their_own_learning_rate():
    network, proxies = make(proxy_lr_factor=100.0).configure_optimizers().param_groups
    assert (network["lr"], proxies["lr"]) == (1e-2, 1.0)


def test_evaluate_with_roles_normalizes():
    x = torch.tensor([[9.0, 0.1], [2.0, 0.0], [0.0, 3.0], [0.1, 9.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert evaluate_with_roles(x, labels).map_at_r == 1
    assert evaluate(x, labels).map_at_r < 1
    assert isinstance(evaluate_with_roles(x, labels, per_query=True).per_query.map_at_r, np.ndarray)


@pytest.mark.parametrize("is_query", [torch.tensor([1, 0, 1, 0]), torch.tensor([True, False]), np.ones(4, bool)])
def test_roles_that_are_no_mask_are_refused(is_query):
    with pytest.raises(ValueError, match=r"is_query: expected torch.bool \(4,\), one for each image, got "):
        evaluate_with_roles(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), is_query)


@pytest.mark.parametrize(("is_query", "got"), [([True] * 4, "queries alone"), ([False] * 4, "no query")])
def test_roles_that_leave_no_gallery_or_no_query_are_refused(is_query, got):
    with pytest.raises(ValueError, match=f"is_query: expected queries and images of a gallery, got {got}"):
        evaluate_with_roles(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), torch.tensor(is_query))


def test_roles_are_checked_before_a_training():
    with pytest.raises(ValueError, match=r"is_query: expected torch.bool \(N,\), one for each image, got "):
        make(is_query=np.ones(4, bool))


X, Y = torch.randn(8, 5), torch.arange(8) % 4


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ([X, Y, Y], "list of Tensor, Tensor, Tensor"),
        ([X], "list of Tensor"),
        ({"image": X, "label": Y}, "dict"),
        ([X, ["a"] * 8], "list of Tensor, list"),
    ],
)
def test_batches_that_are_no_pairs_are_refused(batch, got):
    module = make()
    steps = {"train": module.training_step, "val": module.validation_step, "test": module.test_step}
    for name, step in steps.items():
        with pytest.raises(ValueError, match=f"{name}_dataloaders: expected pairs of tensors, .*, got {got}$"):
            step(batch, 0)


@pytest.mark.parametrize(("batch", "got"), [({"image": X}, "dict"), (["a", X], "list of str, Tensor")])
def test_what_are_no_images_is_not_embedded(batch, got):
    with pytest.raises(ValueError, match=f"dataloaders: expected images, alone or before their labels, got {got}"):
        make().predict_step(batch, 0)


def test_images_alone_or_before_anything_are_embedded():
    for batch in (X, [X], (X, Y, Y)):
        assert make().predict_step(batch, 0).shape == make()(X).shape


def test_what_an_interrupted_validation_left_is_not_scored():
    module, x, y = make(), torch.randn(8, 5), torch.arange(8) % 4
    module.validation_step((x + 1, y), 0)  # and no end of the epoch
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.validate(module, DataLoader(TensorDataset(x, y), batch_size=8), verbose=False)
    assert len(module.validation[0]) == 8


def test_a_sanity_check_of_some_images_is_not_scored():
    """It has other images than the roles, and perhaps no two of a class."""
    images = TensorDataset(torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    for is_query in (None, torch.tensor([True] * 3 + [False] * 3)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        module = MetricLearning(network, ContrastiveLoss(), 1e-3, is_query=is_query)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **options)
        assert trainer.num_sanity_val_steps == 2
        trainer.fit(module, DataLoader(images, 6), DataLoader(images, 1))
        assert len(module.validation[0]) == 6
        assert "map_at_r" in trainer.callback_metrics


@pytest.mark.parametrize("value", [-1, "0.1", None, float("nan")])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "proxy_lr_factor", "head_lr_factor"])
def test_rates_are_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a finite number >= 0, got"):
        MetricLearning(nn.Flatten(), ContrastiveLoss(), **{"lr": 1e-3, name: value})
