"""The presets against the paper's parameters, as they are listed for people."""

import re
from pathlib import Path

import pytest

from ccpml.benchmark.ablations import ABLATIONS
from ccpml.benchmark.protocol import protocol_settings
from ccpml.data_name import BENCHMARKS
from ccpml.losses import LOSSES as TABLE
from ccpml.options import ProjectionOptions
from ccpml.presets import load_preset, read_preset
from ccpml.runs.settings import Settings

ORDER = ("cub", "cars196", "inshop", "sop")
LOSSES = {
    "C1": ("cosine_contrastive", ["margin"]),
    "C2": ("contrastive", ["pos_margin", "neg_margin"]),
    "Triplet": ("triplet", ["margin"]),
    "MS": ("multi_similarity", ["alpha", "beta", "base"]),
    "ProxyAnchor": ("proxy_anchor", ["margin", "alpha"]),
    "ProxyNCA++": ("proxy_nca", ["temperature"]),
    "SoftTriple": ("soft_triple", ["scale", "gamma", "tau", "margin"]),
}


def listed() -> dict[str, dict[str, dict[str, float]]]:
    """Read the table: data set, loss, parameter."""
    table: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ORDER}
    for line in (Path(__file__).parent / "paper_parameters.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].split(" ")[0].rstrip(",")
        if not line.startswith("|") or name not in LOSSES:
            continue
        loss, parameters = LOSSES[name]
        text = re.sub(r"\(the code: .*?\)", "", cells[1])
        sets = [[float(x) for x in re.findall(r"\d*\.?\d+", part)] for part in text.split("/")]
        for data, values in zip(ORDER, sets if len(sets) == 4 else sets * 4, strict=True):
            table[data][loss] = dict(zip(parameters, values, strict=True))
    return table


def test_the_table_was_read() -> None:
    assert {loss for loss, _ in LOSSES.values()} == set(listed()["sop"])
    assert listed()["cars196"]["multi_similarity"] == {"alpha": 14.35, "beta": 75.83, "base": 0.66}


@pytest.mark.parametrize("data", ORDER)
def test_losses_have_the_papers_parameters(data: str) -> None:
    for loss, parameters in listed()[data].items():
        own = {n: value for n, value in TABLE[loss].defaults_for(data).items() if n != "centers_per_class"}
        assert own == parameters
        taken = Settings(data=data, method="plain", loss=loss).resolved().loss_parameters
        assert {name: taken[name] for name in parameters} == parameters


@pytest.mark.parametrize(
    ("data", "proxies", "pool", "small", "large", "validate_every"),
    [
        ("cub", 8, 12, 3, 25, 25),
        ("cars196", 8, 12, 3, 25, 25),
        ("inshop", 4, 7, 100, 400, 250),
        ("sop", 4, 7, 400, 1400, 250),
    ],
)
def test_proxies_pools_and_memories(
    data: str, proxies: int, pool: int, small: int, large: int, validate_every: int
) -> None:
    settings = Settings(data=data).resolved()
    assert (settings.proxies_per_class, settings.pool_size, settings.nearest_positives) == (proxies, pool, "all")
    assert settings.validate_every == validate_every
    assert load_preset(data)["small_memory_batches"] == small
    memory = Settings(data=data, method="xbm").resolved()
    assert (memory.memory_batches, memory.memory_start) == (large, 1000)


@pytest.mark.parametrize("data", BENCHMARKS)
def test_what_all_share(data: str) -> None:
    settings = Settings(data=data).resolved()
    expected = {
        "backbone": "bn_inception",
        "weights": "imagenet",
        "embedding_dim": 128,
        "pooling": "avg",
        "freeze_batchnorm": True,
        "image_size": 227,
        "augment": "paper",
        "lr": 1e-5,
        "weight_decay": 1e-4,
        "classes_per_batch": 8,
        "samples_per_class": 4,
        "folds": 4,
        "patience": 60,
        "pair_weight": 0.1,
        "proxy_weight": 1.0,
        "clip_norm": 10.0,
        "pool_transform": "train",
        "proxy_lr_factor": 1.0,
        "warmup_epochs": 0,
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.projections == ProjectionOptions(
        **{"strength": 2e-4, "decay": 1.0, "patience": 3, "min_delta": 1e-5, "space": "raw", "rewind": False},
        **{"reset_proxy_state": False, "warm_start": "never"},
    )


@pytest.mark.parametrize("loss", ["proxy_anchor", "proxy_nca", "soft_triple"])
def test_losses_with_proxies_of_their_own(loss: str) -> None:
    settings = Settings(data="cub", method="plain", loss=loss).resolved()
    assert (settings.classes_per_batch, settings.samples_per_class) == (32, 1)
    assert (settings.warmup_epochs, settings.proxy_lr_factor) == (1, 100.0)


def test_the_conventional_protocol() -> None:
    expected = {"embedding_dim": 512, "pooling": "avg+max", "score_last": True}
    assert {name: protocol_settings("conventional")[name] for name in expected} == expected
    assert protocol_settings("conventional")["lr_schedule"] == "plateau"
    assert protocol_settings("mlrc") == {}


def test_the_ablations_vary_fields_of_an_experiment_around_their_defaults() -> None:
    assert set(ABLATIONS) == set(read_preset("ablations"))
    expected = {"strength", "proxies", "pool", "batch", "augmentation", "space", "rewind", "proxy_state"}
    assert set(ABLATIONS) == expected
    default = Settings(data="cub").resolved().flat()
    for ablation in read_preset("ablations").values():
        assert "images" in ablation or default[ablation["field"]] in ablation["values"]
    batch = read_preset("ablations")["batch"]
    assert (batch["field"], batch["images"]) == ("classes_per_batch", [16, 32, 64, 128])
    assert batch["methods"] == ["plain", "ccp"]
