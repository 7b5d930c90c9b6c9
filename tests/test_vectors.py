"""What every public function on vectors does with those that are not finite, not dense, or none."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ccpml
from ccpml import baselines, method, models, reranking, retrieval, training
from ccpml.method.normalize import l2_normalize
from ccpml.models import closed_form_head

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) // 3
POINTS = X.view(4, 3, 4)
SIZES: dict[str, Any] = {"num_classes": 4, "embedding_dim": 4}


def projections(pool: Tensor) -> None:
    criterion = ccpml.CCPLoss(ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2)
    ccpml.AlternatingProjections(nn.Linear(4, 4), criterion).start(lambda: pool)


# Calls with vectors (12, 4) or (4, 3, 4), of each argument that takes them, by the name of function and argument.
TENSORS: dict[str, Callable[[Any], Any]] = {
    "AlternatingProjections.pool": projections,
    "average_covering_radius.embeddings": lambda x: ccpml.average_covering_radius(x, LABELS),
    "average_interclass_distance.embeddings": lambda x: ccpml.average_interclass_distance(x, LABELS),
    "class_separation.points": lambda x: method.class_separation(x, 1),
    "closed_form_head.features": lambda x: closed_form_head(x, LABELS, 2),
    "covering_radius.centers": lambda x: ccpml.covering_radius(POINTS, x),
    "covering_radius.points": lambda x: ccpml.covering_radius(x, POINTS),
    "greedy_k_center.centers": lambda x: ccpml.greedy_k_center(POINTS, x, 2),
    "greedy_k_center.points": lambda x: ccpml.greedy_k_center(x, POINTS, 2),
    "start_head.features": lambda x: ccpml.start_head(nn.Linear(4, 2), x, LABELS),
}
EITHER: dict[str, Callable[[Any], Any]] = {
    "cluster_scores.embeddings": lambda x: ccpml.cluster_scores(x, LABELS),
    "evaluate.embeddings": lambda x: ccpml.evaluate(x, LABELS),
    "evaluate.gallery_embeddings": lambda x: ccpml.evaluate(X, LABELS, x, LABELS),
    "evaluate_with_roles.embeddings": lambda x: training.evaluate_with_roles(x, LABELS),
    "nearest_neighbors.gallery": lambda x: ccpml.nearest_neighbors(X, x, k=2),
    "nearest_neighbors.queries": lambda x: ccpml.nearest_neighbors(x, k=2),
}
ROWS = X.numpy()
ARRAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"{call.__name__}.{name}": lambda x, call=call, name=name: call(
            **{"queries": ROWS, "gallery": ROWS, "k": 2, name: x}
        )
        for call in (reranking.nearest, *reranking.METHODS.values())
        for name in ("queries", "gallery")
    },
    "join.vectors": lambda x: reranking.join([x, ROWS]),
    "normalize.vectors": reranking.normalize,
    "Codes.rows": lambda x: reranking.Codes.build(x, "int8"),
    "Codes.queries": lambda x: reranking.Codes.build(ROWS, "int8").search(ROWS, x, 2),
}
PAIR_LOSSES = [
    ccpml.ContrastiveLoss,
    ccpml.CosineContrastiveLoss,
    ccpml.TripletMarginLoss,
    ccpml.MultiSimilarityLoss,
]


def losses() -> dict[str, nn.Module]:
    """Return each loss, pair losses also with proxies and a memory."""
    found: dict[str, nn.Module] = {}
    for kind in PAIR_LOSSES:
        found[kind.__name__] = kind()
        found[f"CCPLoss of {kind.__name__}"] = ccpml.CCPLoss(kind(), **SIZES, proxies_per_class=3)
        found[f"the nearest proxy, {kind.__name__}"] = ccpml.CCPLoss(
            kind(), **SIZES, proxies_per_class=3, nearest_positives=1
        )
        memory = ccpml.CrossBatchMemory(kind(), embedding_dim=4, memory_batches=2, batch_size=12, start=0)
        memory(X, LABELS)
        found[f"CrossBatchMemory of {kind.__name__}"] = memory.eval()
    for name in baselines.__all__:
        if name.endswith("Loss") and name != "ProxyLoss":
            found[name] = getattr(baselines, name)(**SIZES)
    return found


# In training steps nothing is read, and what is not finite stays so; others take no vectors of their own accord.
STAY = {"lipschitz_normalize", "gather_batch"}
OTHERS = {"class_bootstrap", "class_interval", "paired_difference", "score_intervals", "frozen_batches", "augmentation"}


def shaped(name: str, x: Any) -> Any:
    """Return vectors as points of classes where these are expected."""
    return x.reshape(4, 3, -1) if name.endswith((".points", ".centers", ".pool")) else x


def test_the_table_is_complete() -> None:
    known = {name.partition(".")[0] for name in (*TENSORS, *EITHER, *ARRAYS)} | STAY | OTHERS
    for module in (ccpml, method, models, reranking, retrieval, training):
        for name in module.__all__:
            call = getattr(module, name)
            hints = str(inspect.signature(call)) if inspect.isfunction(call) else ""
            arguments = hints.partition(" ->")[0]
            if any(kind in arguments for kind in (": torch.Tensor", "ArrayLike", "floating", "float32")):
                assert name in known, f"{name}: add a call with vectors that are not finite"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*TENSORS, *EITHER, *ARRAYS])
def test_what_is_not_finite_is_refused_with_its_row(name: str, value: float) -> None:
    x = X.clone()
    x[5, 2] = x[7, 0] = value
    arrays = name in ARRAYS
    call = (TENSORS | EITHER | ARRAYS)[name]
    row = "row 2 of class 1" if shaped(name, x).ndim == 3 else "row 5"
    got = "(nan|inf|-inf)" if name.startswith("evaluate_with_roles") else str(value)  # φ of infinity is NaN
    expected = rf"{name.partition('.')[2]}: expected finite values, got {got} in {row} \(the first of 2\)"
    if name.endswith(".pool"):
        expected = "pool: expected finite embeddings, got NaN or infinity; has the training diverged"
    with pytest.raises(ValueError, match=expected):
        call(shaped(name, x.numpy() if arrays else x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", losses())
def test_a_loss_of_what_is_not_finite_is_not_finite(name: str, value: float) -> None:
    x = X.clone()
    x[5, 2] = value
    criterion = losses()[name]
    assert not criterion(x, LABELS).isfinite()
    if name in {kind.__name__ for kind in PAIR_LOSSES}:
        assert not criterion(X, LABELS, None, x, LABELS).isfinite()
        if value is torch.nan:
            assert not criterion(X, LABELS, (LABELS, LABELS + 5, LABELS + 6), x, LABELS).isfinite()


@pytest.mark.parametrize("name", [*TENSORS, *EITHER])
def test_large_vectors_are_finite(name: str) -> None:
    """Their sum is not."""
    (TENSORS | EITHER)[name](shaped(name, (X.clamp(-1, 1).abs() * 3e38).requires_grad_()))


SCALE_FREE = (
    *(f"greedy_k_center.{name}" for name in ("points", "centers")),
    *("class_separation.points", "evaluate.embeddings", "cluster_scores.embeddings", "nearest_neighbors.queries"),
)


@pytest.mark.parametrize("exponent", [-130, -70, 70, 120])
@pytest.mark.parametrize("name", SCALE_FREE)
def test_scores_do_not_depend_on_the_scale(monkeypatch: pytest.MonkeyPatch, name: str, exponent: int) -> None:
    """Squares of such numbers overflow, or are 0, in float32."""
    call, x = (TENSORS | EITHER)[name], shaped(name, X)
    expected = call(x)
    monkeypatch.setattr(f"{__name__}.POINTS", POINTS * 2.0**exponent)
    found = call(x * 2.0**exponent)
    if name.startswith("nearest"):
        expected, found = expected[1], found[1]
    assert str(found) == str(expected)


@pytest.mark.parametrize("name", [name for name in losses() if name in baselines.__all__])
def test_cosines_do_not_depend_on_the_scale(name: str) -> None:
    criterion = losses()[name]
    for scale in (1e10, 1e30, 1e37):
        torch.testing.assert_close(criterion(X * scale, LABELS), criterion(X, LABELS))


NOT_DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.to_sparse_csr() if x.ndim == 2 else x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "mkldnn": lambda x: x.to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "complex": lambda x: x.to(torch.complex64),
    "bool": lambda x: x > 0,
    "integer": lambda x: x.long(),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)")
@pytest.mark.parametrize("kind", NOT_DENSE)
def test_what_is_no_dense_tensor_of_numbers_is_refused(kind: str) -> None:
    calls = TENSORS | EITHER | {name: lambda x, loss=loss: loss(x, LABELS) for name, loss in losses().items()}
    calls |= {"lipschitz_normalize.x": ccpml.lipschitz_normalize, "l2": lambda x: l2_normalize(X)}
    for name, call in calls.items():
        if name != "l2":
            argument = name.partition(".")[2] or "embeddings"
            argument = "x" if name.startswith("evaluate_with_roles") else argument
            with pytest.raises(ValueError, match=f"^{argument}: expected (a dense tensor|floating)"):
                call(NOT_DENSE[kind](shaped(name, X)))


@pytest.mark.parametrize("name", [*TENSORS, *EITHER])
def test_vectors_without_values_are_refused(name: str) -> None:
    expected = "expected values, got a tensor on the meta device, which has none"
    with pytest.raises(ValueError, match=f"{name.partition('.')[2]}: {expected}"):
        (TENSORS | EITHER)[name](shaped(name, X).to("meta"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*TENSORS, *EITHER])
def test_vectors_of_few_bits_are_vectors(name: str, dtype: torch.dtype) -> None:
    found, expected = ((TENSORS | EITHER)[name](shaped(name, x)) for x in (X.to(dtype), X.to(dtype).float()))
    if isinstance(expected, float):
        assert found == pytest.approx(expected)
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected.to(found.dtype))


MASKED = np.ma.masked_array(ROWS, mask=ROWS > 1.5)
BAD_ARRAYS = {
    "object": ROWS.astype(object),
    "complex": ROWS.astype(complex),
    "text": ROWS.astype(str),
    "bool": ROWS > 0,
    "masked": MASKED,
    "one axis": ROWS[0],
    "three axes": ROWS[None],
    "text alone": "x",
    "ragged": [[1.0], [1.0, 2.0]],
    "sparse": X.to_sparse(),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_what_is_no_array_of_vectors_is_refused(kind: str) -> None:
    calls = ARRAYS | ({} if kind in {"text alone", "ragged"} else EITHER)
    for name, call in calls.items():
        if not name.startswith("evaluate_with_roles"):
            with pytest.raises(ValueError, match=f"{name.partition('.')[2]}: expected "):
                call(BAD_ARRAYS[kind])


def test_arrays_of_any_float_are_vectors() -> None:
    for name, call in EITHER.items():
        if not name.startswith("evaluate_with_roles"):
            for rows in (ROWS.astype(">f4"), ROWS.astype(np.longdouble), np.asfortranarray(ROWS)):
                assert str(call(rows)) == str(call(ROWS if rows.dtype.itemsize == 4 else ROWS.astype(float)))


@pytest.mark.parametrize("labels", [LABELS.to_sparse(), LABELS.to("meta"), LABELS.float(), LABELS > 0, LABELS[None]])
def test_what_are_no_labels_is_refused(labels: Tensor) -> None:
    for call in (ccpml.evaluate, ccpml.cluster_scores, ccpml.average_covering_radius, *losses().values()):
        with pytest.raises(ValueError, match=r"^labels: expected "):
            call(X, labels)


def test_masked_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: expected all values, got a masked array"):
        ccpml.evaluate(X, np.ma.masked_array(LABELS.numpy(), mask=LABELS.numpy() == 1))


@pytest.mark.parametrize("shape", [(0, 4), (12, 0), (0, 0)])
def test_nothing_has_no_scores(shape: tuple[int, int]) -> None:
    x, labels = torch.empty(shape), torch.arange(shape[0])
    averages = ccpml.average_covering_radius, ccpml.average_interclass_distance
    for call in (ccpml.evaluate, ccpml.cluster_scores, *averages):
        with pytest.raises(ValueError, match=r"embeddings: expected (shape|at least one)"):
            call(x, labels)
    with pytest.raises(ValueError, match="queries: expected shape"):
        ccpml.nearest_neighbors(x)


@pytest.mark.parametrize("tiles", [0, 2**62])
@pytest.mark.parametrize("huge", [13, 2**63, 10**30, 10**400], ids=["13", "2^63", "10^30", "10^400"])
def test_recall_at_more_than_there_are_is_1(monkeypatch: pytest.MonkeyPatch, huge: int, tiles: int) -> None:
    monkeypatch.setattr("ccpml.retrieval.scoring._MIN_PAIRS_FOR_TILES", tiles)
    scores = ccpml.evaluate(X, LABELS, recall_at=(1, huge), per_query=True, chunk_elements=huge)
    assert scores.recall_at[huge] == 1
    assert scores.per_query is not None
    assert scores.per_query.recall_at(huge).tolist() == [1] * 12
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="k: expected an integer of at least 1"):
            scores.per_query.recall_at(bad)  # type: ignore[arg-type]
    assert ccpml.nearest_neighbors(X, k=2, chunk_elements=huge)[1].shape == (12, 2)


@pytest.mark.parametrize("name", losses())
def test_another_device_is_named(name: str) -> None:
    criterion = losses()[name]
    with pytest.raises(ValueError, match="labels: expected on meta as the embeddings, got cpu"):
        criterion(X.to("meta"), LABELS)
    if any(True for _ in criterion.parameters()) or "Memory" in name:
        with pytest.raises(ValueError, match=r"(proxies|memory): expected on meta as the embeddings, got cpu"):
            criterion(X.to("meta"), LABELS.to("meta"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.(trace|script):DeprecationWarning", "ignore:.*:FutureWarning")
@pytest.mark.parametrize("name", losses())
def test_a_loss_in_a_graph_is_right_or_refused(name: str) -> None:
    criterion = losses()[name]
    with pytest.raises(RuntimeError, match=r"expected no torch\.jit.trace, got one; trace the model alone"):
        torch.jit.trace(criterion, (X, LABELS))  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match=r"expected no torch\.jit.script, got one; script the model alone"):
        torch.jit.script(criterion)
    batches = torch.stack([X, 2 * X])
    if name in {"ProxyAnchorLoss", "ProxyNCALoss"}:  # plain operations, which are transformed as any others
        found = torch.func.vmap(lambda x: criterion(x, LABELS))(batches)
        torch.testing.assert_close(found, torch.stack([criterion(x, LABELS) for x in batches]))
        return
    with pytest.raises(RuntimeError, match=r"expected no transform of torch\.func .* use backward"):
        torch.func.vmap(lambda x: criterion(x, LABELS))(batches)


@pytest.mark.parametrize("name", ["ContrastiveLoss", "CCPLoss of TripletMarginLoss", "ProxyAnchorLoss"])
def test_labels_out_of_range_in_a_graph(name: str) -> None:
    criterion = losses()[name].eval()
    program = torch.export.export(criterion, (X, LABELS), strict=False).module()
    assert torch.equal(program(X * 2, LABELS), criterion(X * 2, LABELS))
    if name != "ContrastiveLoss":
        with pytest.raises(RuntimeError, match=r"labels: expected classes 0\.\.3"):
            program(X, LABELS + 1)
