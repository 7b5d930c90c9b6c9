from dataclasses import fields

import pytest

from ccpml.options import ProjectionOptions
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import (
    SEARCHES,
    Choices,
    Range,
    numeric_fields,
    parse_field,
    search_space,
    with_values,
)


def test_all_numeric_fields_are_there_and_no_others():
    expected = {field.name for field in fields(Settings) if str(field.type).partition(" ")[0] in {"int", "float"}} | {
        field.name for field in fields(Settings) if field.type in {int, float}
    }
    assert set(numeric_fields()) == expected | {"channels"}
    assert {"lr", "margin", "memory_batches", "projections.strength", "seed", "centers_per_class"} <= expected
    assert not {"projections.rewind", "data", "loss", "test_classes"} & expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("projections.strength=1e-6..1e-1:log", Range("projections.strength", 1e-6, 0.1, log=True)),
        ("projections.strength=0..1", Range("projections.strength", 0.0, 1.0)),
        (" lr = 1e-5 , 1e-4,1e-3 ", Choices("lr", (1e-5, 1e-4, 1e-3))),
        ("proxies-per-class=1..16", Range("proxies_per_class", 1, 16)),
        ("memory_batches=3,25,400", Choices("memory_batches", (3, 25, 400))),
        ("embedding_dim=8..512:log", Range("embedding_dim", 8, 512, log=True)),
        ("base=-1..1.5", Range("base", -1.0, 1.5)),
        ("channels=1,3", Choices("channels", (1, 3))),
    ],
)
def test_fields_are_read(text, expected):
    field = parse_field(text)
    assert field == expected
    assert [type(value) for value in field.extremes] == [numeric_fields()[field.name][0]] * len(field.extremes)
    assert parse_field(str(field)) == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no setting; there are pos_margin,"),
        ("lambda=1..2", "'lambda' is no setting"),
        ("loss=c1,c2", "'loss' is no number"),
        ("projections.rewind=0,1", "'projections.rewind' is no number"),
        ("test_classes=1,2", "'test_classes' is no number"),
        ("lr", "expected lr=low..high"),
        ("lr=", "expected lr=low..high"),
        ("lr=fast", "expected numbers, got fast"),
        ("lr=1e-5", "two different values or more"),
        ("lr=1e-5,1e-5", "two different values or more"),
        ("lr=1e-5,1e-4,1e-4", "two different values or more"),
        ("lr=1e-5,,1e-4", "expected numbers, got nothing"),
        ("lr=1e-5..", "expected numbers, got nothing"),
        ("lr=1e-3..1e-5", "from less to more"),
        ("lr=1e-3..1e-3", "from less to more"),
        ("lr=1e-3..inf", "finite"),
        ("lr=nan,1", "finite"),
        ("projections.strength=0..1:log", "starts above 0, got 0"),
        ("projections.strength=1..2:ln", "expected :log or nothing"),
        ("projections.strength=1,2:log", ":log is for ranges"),
        ("proxies_per_class=1.0..16", "expected whole numbers, got 1.0"),
        ("proxies_per_class=1,2.5", "expected whole numbers, got 2.5"),
        ("channels=1..3", "it takes single values only: channels=1,3"),
        ("channels=1,2", "it takes single values only: channels=1,3"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(ValueError, match="search") as error:
        parse_field(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "texts", "message"),
    [
        ({}, [], "nothing to search"),
        ({}, ["lr=1..2", "lr=1,2"], "search lr: it is there twice"),
        ({}, ["lr=0..1"], "lr: expected a number above 0, got 0.0"),
        ({}, ["alpha=1..2"], "search alpha: it has no effect on contrastive, only on multi_similarity, proxy_anchor"),
        ({}, ["memory_batches=1..5"], "no effect with method ccp, only with xbm"),
        ({"method": "plain"}, ["projections.strength=0..1"], "no effect with method plain, only with ccp"),
        ({"method": "plain"}, ["proxy_lr_factor=1..10"], "contrastive with method plain has no proxies"),
        ({"pool_size": 12}, ["proxies_per_class=1..16"], "at most pool_size = 12, got 16"),
        ({}, ["pool_size=4..24"], "at most pool_size = 4, got 8"),
        ({}, ["fold=0..4"], "two folds or more"),
        ({}, ["seed=0..99999999999"], "seed: expected 0..2147483647"),
    ],
)
def test_values_that_the_experiment_refuses_are_named_before_the_search(settings, texts, message):
    with pytest.raises(ValueError, match="search") as error:
        search_space(Settings(**settings), texts)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({}, ["proxies_per_class=1..16"]),
        ({}, ["proxies_per_class=1..16", "pool_size=4..24"]),
        ({}, ["fold=0..4", "folds=2..5"]),
        ({"method": "xbm"}, ["memory_batches=1..5", "memory_start=0..10"]),
        (
            {"method": "plain", "loss": "soft_triple"},
            ["margin=0..1", "centers_per_class=1..9", "proxy_lr_factor=1..9"],
        ),
    ],
)
def test_what_the_experiment_takes_is_searched(settings, texts):
    assert [str(field).partition("=")[0] for field in search_space(Settings(**settings), texts)] == [
        text.partition("=")[0] for text in texts
    ]


def test_the_preset_is_lambda_and_proxies_and_can_be_changed():
    assert SEARCHES == ("lambda-proxies",)
    preset = (Range("strength", 1e-6, 0.1, log=True), Range("proxies_per_class", 1, 16))
    assert search_space(Settings(), [], "lambda-proxies") == preset
    changed = search_space(Settings(), ["projections.strength=1e-4,1e-3", "lr=1e-4..1e-3"], "lambda-proxies")
    assert changed == (Choices("strength", (1e-4, 1e-3)), preset[1], Range("lr", 1e-4, 1e-3))
    with pytest.raises(ValueError, match="there is no 'nonsense', there is lambda-proxies"):
        search_space(Settings(), [], "nonsense")


def test_the_pool_grows_with_the_proxies_where_it_was_left_open():
    assert with_values(Settings(), {"proxies_per_class": 20}).resolved().pool_size == 20
    assert with_values(Settings(), {"proxies_per_class": 2}).resolved().pool_size == 12
    assert with_values(Settings(data="sop"), {"proxies_per_class": 8}).pool_size == 8
    with pytest.raises(ValueError, match="at most pool_size = 12"):
        with_values(Settings(pool_size=12), {"proxies_per_class": 20})
    assert with_values(Settings(), {"projections.strength": 1.0}) == Settings(
        projections=ProjectionOptions(strength=1.0)
    )
