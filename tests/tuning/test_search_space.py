import pytest

from ccpml.options import ProjectionOptions
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import (
    SEARCHES,
    Choices,
    Range,
    parse_field,
    search_space,
    with_values,
)


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
def test_fields_are_parsed(text, expected):
    field = parse_field(text)
    assert field == expected
    assert [type(value) for value in field.extremes] == [type(value) for value in expected.extremes]
    assert parse_field(str(field)) == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a numeric setting, got ''; numeric settings are proxies_per_class, "),
        ("lambda=1..2", "expected a numeric setting, got 'lambda'"),
        ("loss=c1,c2", "expected a numeric setting, got 'loss'"),
        ("projections.rewind=0,1", "expected a numeric setting, got 'projections.rewind'"),
        ("test_classes=1,2", "expected a numeric setting, got 'test_classes'"),
        ("lr", "expected lr=low..high"),
        ("lr=", "expected lr=low..high"),
        ("lr=fast", "expected float or null, got 'fast'"),
        ("lr=1e-5", "at least two different values"),
        ("lr=1e-5,1e-5", "at least two different values"),
        ("lr=1e-5,1e-4,1e-4", "at least two different values"),
        ("lr=1e-5,,1e-4", "expected float or null, got ''"),
        ("lr=1e-5..", "expected float or null, got ''"),
        ("lr=null,1", "expected a finite number, got 'null'"),
        ("lr=1e-3..1e-5", "expected low < high"),
        ("lr=1e-3..1e-3", "expected low < high"),
        ("lr=1e-3..inf", "expected a finite number, got 'inf'"),
        ("lr=nan,1", "expected a finite number, got 'nan'"),
        ("fold=auto,1", "expected a finite number, got 'auto'"),
        ("projections.strength=0..1:log", "expected low > 0 for a logarithmic range, got 0"),
        ("projections.strength=1..2:ln", "expected :log or nothing"),
        ("projections.strength=1,2:log", "expected a range before :log"),
        ("proxies_per_class=1.0..16", "expected int or null, got '1.0'"),
        ("proxies_per_class=1,2.5", "expected int or null, got '2.5'"),
        ("channels=1..3", "expected single values, got the range 1..3"),
        ("channels=1,2", "expected 1, 3 or auto, got '2'"),
    ],
)
def test_wrong_fields_are_refused(text, message):
    with pytest.raises(ValueError, match="search") as error:
        parse_field(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "texts", "message"),
    [
        ({}, [], "search: expected a preset (lambda-proxies) or settings"),
        ({}, ["lr=1..2", "lr=1,2"], "search lr: given twice"),
        ({}, ["lr=0..1"], "search lr: expected a finite number > 0, got 0.0"),
        (
            {"loss": "contrastive"},
            ["alpha=1..2"],
            "search alpha: has no effect on contrastive, only on multi_similarity, proxy_anchor",
        ),
        ({}, ["memory_batches=1..5"], "no effect with method ccp, only with xbm"),
        ({"method": "xbm"}, ["class_rate=0.1..0.9"], "no effect with method xbm, only with ccp"),
        ({"method": "plain"}, ["projections.strength=0..1"], "no effect with method plain, only with ccp"),
        ({"method": "plain"}, ["proxy_lr_factor=1..10"], "on multi_similarity with method plain, which has no proxies"),
        ({"pool_size": 12}, ["proxies_per_class=1..16"], "at most pool_size = 12, got 16"),
        ({}, ["pool_size=4..24"], "at most pool_size = 4, got 8"),
        ({}, ["fold=0..4"], "search fold: expected one of 4 folds or fewer, 0..3, got 4"),
        ({}, ["seed=0..99999999999"], "seed: expected 0..2147483647"),
    ],
)
def test_values_out_of_range_are_refused_before_the_search(settings, texts, message):
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
def test_valid_values_are_searched(settings, texts):
    assert [str(field).partition("=")[0] for field in search_space(Settings(**settings), texts)] == [
        text.partition("=")[0] for text in texts
    ]


def test_the_fields_of_a_preset_can_be_replaced_and_added():
    assert SEARCHES == ("lambda-proxies",)
    preset = (Range("projections.strength", 1e-6, 0.1, log=True), Range("proxies_per_class", 1, 16))
    assert search_space(Settings(), [], "lambda-proxies") == preset
    changed = search_space(Settings(), ["projections.strength=1e-4,1e-3", "lr=1e-4..1e-3"], "lambda-proxies")
    assert changed == (Choices("projections.strength", (1e-4, 1e-3)), preset[1], Range("lr", 1e-4, 1e-3))
    with pytest.raises(ValueError, match="preset: expected one of lambda-proxies, got 'nonsense'"):
        search_space(Settings(), [], "nonsense")


def test_a_pool_size_that_is_left_open_grows_with_the_proxies():
    assert with_values(Settings(), {"proxies_per_class": 20}).resolved().pool_size == 20
    assert with_values(Settings(), {"proxies_per_class": 2}).resolved().pool_size == 12
    assert with_values(Settings(data="sop"), {"proxies_per_class": 8}).pool_size == 8
    with pytest.raises(ValueError, match="at most pool_size = 12"):
        with_values(Settings(pool_size=12), {"proxies_per_class": 20})
    assert with_values(Settings(), {"projections.strength": 1.0}) == Settings(
        projections=ProjectionOptions(strength=1.0)
    )
