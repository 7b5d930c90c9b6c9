"""Which fits start the embedding layer: each that does not resume."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ccpml import ContrastiveLoss, create_model
from ccpml.models import HeadStart
from ccpml.training import HeadStartCallback, MetricLearning, head_start

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")

IMAGES = torch.randint(256, (8, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LOADER = DataLoader(TensorDataset(IMAGES, torch.arange(8) // 2), batch_size=8)


def test_each_fit_starts_the_layer_unless_it_resumes(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(head_start, "start_head", lambda layer, *_: started.append(layer) or HeadStart(*"wb", "pca", 4))
    callback = HeadStartCallback("pca", lambda rank, ranks: LOADER, progress=False)
    trainer = L.Trainer(
        max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    modules = [
        MetricLearning(create_model("small_conv", 4, channels=1, bias=True), ContrastiveLoss(), lr=1e-3)
        for _ in range(3)
    ]
    trainer.fit(modules[0], LOADER, LOADER)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(modules[1], LOADER, LOADER)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(modules[2], LOADER, LOADER, ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    assert started == [module.model.linear for module in modules[:2]]


def test_what_cannot_be_started_is_named():
    with pytest.raises(ValueError, match="kind: expected 'whitening', 'pca', 'identity' or 'random', got 'white'"):
        HeadStartCallback("white", lambda rank, ranks: LOADER)
    callback = HeadStartCallback("identity", lambda rank, ranks: LOADER)
    model = create_model("small_conv", 4, channels=1)
    with pytest.raises(ValueError, match="embedding_dim: expected 128, the features, for kind 'identity', got 4"):
        callback.on_train_start(None, MetricLearning(model, ContrastiveLoss(), lr=1e-3))
    with pytest.raises(ValueError, match="model: expected a MetricLearning of an EmbeddingModel, got Flatten"):
        callback.on_train_start(None, MetricLearning(nn.Flatten(), ContrastiveLoss(), lr=1e-3))
