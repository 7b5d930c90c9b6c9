from pathlib import Path

import pytest

from ccpml.benchmark.ablations import ABLATIONS, ablation_rows
from ccpml.benchmark.protocol import Benchmark
from ccpml.runs.build import build_criterion
from ccpml.runs.settings import Settings


def cells(rows, base=None, ablation="lr"):
    return list(Benchmark(base or Settings(), rows, Path("out"), folds=(0,), ablation=ablation).cells())


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("data", ["glyphs", "sop"])
def test_every_ablation_has_valid_cells_that_differ_in_one_field(ablation, data):
    base = Settings(data=data)
    rows = ablation_rows(ablation, ["c2"], base=base)
    made = cells(rows, base)
    assert len({str(cell.settings.as_dict()) for cell in made}) == len(made) >= 2
    assert all(row.value is not None for row in rows)
    varied = {name for cell in made for name in cell.row.changes}
    assert varied <= {next(iter(rows[0].changes)), "pool_size"}
    default = base.resolved().flat()
    assert any(all(default[name] == value for name, value in row.changes.items()) for row in rows)


@pytest.mark.parametrize("loss", ["c2", "proxy_anchor"])
@pytest.mark.parametrize("per_class", [None, 2])
def test_the_batch_ablation_varies_from_16_to_128_images(loss, per_class):
    """Claim 4 of the paper: with CCP, a batch of 16 images is about as good as one of 128; with the plain loss, not."""
    base = Settings(samples_per_class=per_class)
    rows = ablation_rows("batch", [loss], base=base)
    assert {row.method for row in rows} == ({"plain", "ccp"} if loss == "c2" else {"plain"})
    assert {row.value for row in rows} == {16, 32, 64, 128}
    for cell in cells(rows, base):
        assert cell.settings.classes_per_batch * cell.settings.samples_per_class == cell.row.value


def test_values_that_contradict_other_settings_are_left_out():
    assert [row.value for row in ablation_rows("batch", ["c2"], ["ccp"], Settings(samples_per_class=32))] == [
        *(32, 64, 128)
    ]
    assert {row.value for row in ablation_rows("pool", ["c2"])} == {8, 12, 16, 24, 32}
    assert {row.value for row in ablation_rows("pool", ["c2"], base=Settings(data="sop"))} >= {4, 7}
    with pytest.raises(ValueError, match="ablation: every value of pool contradicts the other settings"):
        ablation_rows("pool", ["c2"], base=Settings(proxies_per_class=99, pool_size=99))


def test_a_pool_size_that_is_left_open_grows_with_the_proxies():
    pools = {row.value: row.changes.get("pool_size") for row in ablation_rows("proxies", ["c2"])}
    assert set(pools.values()) == {None}
    pools = {
        row.value: row.changes.get("pool_size") for row in ablation_rows("proxies", ["c2"], None, Settings(data="sop"))
    }
    assert pools == {1: None, 2: None, 4: None, 6: None, 8: 8, 12: 12}
    given = ablation_rows("proxies", ["c2"], base=Settings(pool_size=6))
    assert {row.value: row.changes.get("pool_size") for row in given} == {1: None, 2: None, 4: None, 6: None}


def test_nearest_positives_up_to_all():
    rows = ablation_rows("nearest_positives=1,2,4,all", ["triplet"])
    assert [row.value for row in rows] == [1, 2, 4, "all"]
    found = [build_criterion(cell.settings, num_classes=3).nearest_positives for cell in cells(rows)]
    assert found == [1, 2, 4, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("color", ["c2"]), "ablation: expected one of strength"),
        (("seed=1,2", ["c2"]), "ablation: 'seed' is not a setting of a row$"),
        (("method=plain,ccp", ["c2"]), "ablation: method is not a setting of a row; choose the methods of the rows"),
        (("pool_sz=1,2", ["c2"]), r"ablation: 'pool_sz' is not a setting of a row; did you mean pool_size\?$"),
        (("lr=1e-3,1e-3", ["c2"]), "ablation: expected each value once"),
        (("lr=fast", ["c2"]), "lr: expected float or null, got 'fast'"),
        (("strength", ["c2"], ["plain"]), "strength: has no effect with method plain, only with ccp"),
        (("rewind", ["proxy_anchor"]), "projections.rewind: has no effect with method plain, only with ccp"),
        (("nearest_positives=1,2", ["c2"], ["plain"]), "nearest_positives: has no effect with method plain"),
        (("nearest_positives=1,some", ["c2"]), "nearest_positives: expected int, all or null, got 'some'"),
        (("memory_start=1,2", ["c2"]), "memory_start: has no effect with method ccp, only with xbm"),
        (("margin=0.1,0.2", ["c2"]), "margin: has no effect on contrastive, only on cosine_contrastive, triplet"),
    ],
)
def test_wrong_ablations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ablation_rows(*arguments)
