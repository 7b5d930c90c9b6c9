from dataclasses import replace
from pathlib import Path

import pytest

from ccpml.benchmark.protocol import Benchmark, Row, protocol_settings
from ccpml.benchmark.rows import table_rows, variant_rows, with_row_settings
from ccpml.benchmark.summary import summarize
from ccpml.losses import find_loss
from ccpml.runs.defaults import DataFacts
from ccpml.runs.settings import Settings


def benchmark(rows, **options):
    return Benchmark(options.pop("base", Settings()), rows, Path("out"), **options)


def test_rows_are_losses_times_methods_and_losses_with_proxies_have_one_row():
    rows = table_rows(["c1", "ms", "proxy_nca"], ["plain", "ccp", "xbm", "xbm-s"])
    assert [row.title for row in rows] == [
        *("C1", "C1-CCP", "C1-XBM", "C1-XBM-S", "MS", "MS-CCP", "MS-XBM", "MS-XBM-S", "ProxyNCA++")
    ]
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("losses", "methods", "message"),
    [
        (["c3"], ["ccp"], "loss: expected one of contrastive .c2."),
        (["c1"], ["mine"], "methods: expected some of ccp, xbm, plain, xbm-s, got 'mine'"),
        (["c1", "cosine_contrastive"], ["ccp"], "losses: expected one or more, each once"),
        ([], ["ccp"], "losses: expected one or more, each once, got none"),
    ],
)
def test_wrong_rows_are_refused(losses, methods, message):
    with pytest.raises(ValueError, match=message):
        table_rows(losses, methods)


def test_cells_are_repeats_of_rows_of_folds_and_share_their_seed():
    """Repeat r of every row and fold has the same seed, so that comparisons are paired."""
    base = Settings(seed=7)
    cells = list(benchmark(table_rows(["c2"], ["plain", "ccp"]), base=base, repeats=3).cells())
    assert len(cells) == 3 * 2 * 4
    assert {cell.settings.seed - cell.repeat for cell in cells} == {7}
    assert {(cell.repeat, cell.fold) for cell in cells} == {(r, f) for r in range(3) for f in range(4)}
    assert all(cell.settings.fold == cell.fold for cell in cells)
    assert len({cell.path for cell in cells}) == len(cells)
    assert [cell.repeat for cell in cells] == sorted(cell.repeat for cell in cells)


def test_a_cell_has_the_settings_of_its_row():
    rows = table_rows(["c1", "soft_triple"], ["plain", "xbm", "xbm-s"])
    settings = {cell.row.title: cell.settings for cell in benchmark(rows, base=Settings(data="sop")).cells()}
    assert settings["C1-XBM"].memory_batches == 1400
    assert settings["C1-XBM-S"].memory_batches == 400
    assert (settings["C1"].method, settings["C1-XBM-S"].method) == ("plain", "xbm")
    assert (settings["SoftTriple"].classes_per_batch, settings["SoftTriple"].loss_parameters["scale"]) == (32, 100.0)
    assert settings["C1"].classes_per_batch == 8


def test_a_parameter_of_the_base_goes_to_the_losses_that_take_it():
    rows = table_rows(["triplet", "ms"], ["plain"])
    settings = {
        c.row.title: c.settings
        for c in benchmark(rows, base=Settings(loss="triplet", loss_parameters={"margin": 0.2})).cells()
    }
    assert settings["Triplet"].loss_parameters == {"margin": 0.2}
    assert "margin" not in settings["MS"].loss_parameters


def test_parameters_go_to_the_losses_that_take_them():
    rows = table_rows(["c1", "c2", "triplet"], ["plain"])
    made = benchmark(rows, parameters={"margin": 0.3, "pos_margin": 0.1})
    found = {cell.row.title: cell.settings.loss_parameters for cell in made.cells()}
    assert found == {"C1": {"margin": 0.3}, "C2": {"pos_margin": 0.1, "neg_margin": 0.3841}, "Triplet": {"margin": 0.3}}
    assert (made.settings["margin"], made.settings.get("beta")) == (0.3, None)


def test_variants():
    rows = variant_rows(["c2", "proxy_anchor"], "hot:lr=1e-2,projections.rewind=true,method=plain")
    assert [(row.loss, row.method) for row in rows] == [("contrastive", "plain"), ("proxy_anchor", "plain")]
    cell = next(iter(benchmark(variant_rows(["c2"], "free:projections.strength=0,proxies_per_class=2")).cells()))
    assert (cell.settings.projections.strength, cell.settings.proxies_per_class, cell.settings.method) == (0, 2, "ccp")
    assert cell.row.title == "C2-CCP (free)"


@pytest.mark.parametrize("variant", ["", "name", "name:", "name:lr", ":lr=1", "a/b:lr=1"])
def test_wrong_variants_are_refused(variant):
    with pytest.raises(ValueError, match="variant: expected name:setting=value"):
        variant_rows(["c2"], variant)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("a:pool_sz=4", r"a: 'pool_sz' .*; did you mean pool_size\?$"),
        ("x:lr=1,seed=1", "x: 'seed' is not a setting of a"),
    ],
)
def test_a_setting_that_a_variant_cannot_have_is_named(variant, message):
    with pytest.raises(ValueError, match=f"^variant: {message}"):
        variant_rows(["c2"], variant)


def test_values_of_a_variant_have_the_type_of_their_setting():
    with pytest.raises(ValueError, match="lr: expected float or null, got 'fast'"):
        variant_rows(["c2"], "x:lr=fast")


def test_rows_may_have_settings_of_their_own():
    settings = {
        "contrastive-ccp": {"lr": 0.003, "projections.rewind": True},
        "triplet-xbm": {"lr": 0.1},
    }  # the second row is not in the table
    rows = with_row_settings(table_rows(["c2"], ["plain", "ccp"]), settings)
    assert [dict(row.changes) for row in rows] == [{}, {"lr": 0.003, "projections.rewind": True}]
    assert [row.title for row in rows] == ["C2", "C2-CCP"]


def test_tables_name_settings_of_single_rows():
    plain, ccp = Row("multi_similarity", "plain"), Row("multi_similarity", "ccp", changes={"lr": 0.01})
    variant = Row("multi_similarity", "ccp", "hi", {"lr": 0.1, "proxies_per_class": 2})
    facts = " ".join(summarize(benchmark((plain, ccp, variant)), []))
    assert "Settings of single rows: MS-CCP: lr 0.01; MS-CCP (hi): lr 0.1, proxies_per_class 2. The others" in facts
    assert "single rows" not in " ".join(summarize(benchmark((plain,)), []))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["contrastive-plain"], "row settings: expected settings by the names of rows"),
        ({"contrastive-plain": 3}, "row settings: expected settings by the names of rows"),
        ({"triplet-plian": {}}, "row settings: expected rows .contrastive-plain., got 'triplet-plian'"),
        ({"contrastive-plain": {"speed": 3}}, "contrastive-plain: 'speed' is not a setting of a row"),
        ({"contrastive-ccp": {"method": "plain"}}, "row settings: contrastive-ccp: method: expected ccp, got 'plain'$"),
        ({"contrastive-plain": {"lr": "fast"}}, "lr: expected float or null, got 'fast'"),
    ],
)
def test_wrong_row_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_row_settings(table_rows(["c2"], ["plain"]), settings)


def test_the_conventional_setting():
    """512-D, batch 128 = 32 × 4, average + max pooling, reduce-on-plateau; the last step is scored too."""
    e = Settings(**protocol_settings("conventional"))
    assert (e.embedding_dim, e.pooling, e.lr_schedule, e.score_last) == (512, "avg+max", "plateau", True)
    benchmark = Benchmark(e, (Row("contrastive", "plain"),), Path("out"), "conventional", folds=(0,))
    cell = next(benchmark.cells())
    assert (cell.settings.classes_per_batch, cell.settings.samples_per_class) == (32, 4)
    assert not benchmark.notes()
    few = replace(benchmark, facts=DataFacts(classes=38, train_classes=28))
    note = "classes_per_batch 28: there are 28 training classes; the protocol has 32"
    cell = next(few.cells())
    assert (cell.settings.classes_per_batch, cell.chosen[0], few.notes()) == (28, note, (note,))
    given = replace(few, base=replace(e, classes_per_batch=16))
    assert (next(given.cells()).settings.classes_per_batch, given.notes()) == (16, ())
    assert protocol_settings("mlrc") == {}


def test_names():
    assert find_loss("MS") == "multi_similarity"
    assert Row("proxy_nca", "plain").title == "ProxyNCA++"
