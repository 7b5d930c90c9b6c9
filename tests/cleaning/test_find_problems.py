"""Problems among arrays, against their definitions in NumPy."""

import numpy as np
import pytest

from ccpml.cleaning.problems import find_problems


@pytest.fixture
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Ten classes of 20 points in the unit ball, well apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 20)
    x = 0.5 * np.eye(10)[labels] + rng.normal(0, 0.03, (200, 10))
    return x.astype(np.float32), labels


def test_labels_spoilt_on_purpose_are_found_and_corrected(clusters):
    x, labels = clusters
    spoilt = labels.copy()
    wrong = np.arange(0, 200, 13)
    spoilt[wrong] = (labels[wrong] + 1 + np.arange(len(wrong)) % 9) % 10
    found = find_problems(x, spoilt).of_kind("label error")
    assert sorted(one.row for one in found) == wrong.tolist()
    assert all(one.suggested == labels[one.row] for one in found)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_clean_labels_are_not_questioned(clusters):
    assert find_problems(*clusters).of_kind("label error") == []


def test_a_copy_is_no_evidence_for_its_label(clusters):
    x, labels = clusters
    wrong = 5
    x = np.concatenate([x, np.repeat(x[wrong : wrong + 1], 30, axis=0)])
    labels = np.append(labels, np.full(30, 7))  # 31 copies of one wrong picture agree with each other
    labels[wrong] = 7
    keys = [*range(200), *[wrong] * 30]
    problems = find_problems(x, labels, content_hashes=keys)
    assert {one.row for one in problems.of_kind("label error")} == {wrong, *range(200, 230)}
    assert {one.suggested for one in problems.of_kind("label error")} == {0}
    counted = {one.row for one in find_problems(x, labels).of_kind("label error")}
    assert not counted & {wrong, *range(200, 230)}  # as pictures of their own, they outvote all others


def test_groups_of_copies_say_which_labels_differ(clusters):
    x, labels = clusters
    x[30], x[31] = x[10], x[10]
    x[50] = x[51]
    keys = list(range(200))
    keys[30] = keys[31] = keys[10]
    keys[50] = keys[51]
    groups = find_problems(x, labels, class_names=list("abcdefghij"), content_hashes=keys).of_kind("exact copy")
    assert [(one.group, one.row, one.other, one.note) for one in groups] == [
        (1, 10, 30, "labels differ: a, b"),
        (1, 30, 10, "labels differ: a, b"),
        (1, 31, 10, "labels differ: a, b"),
        (2, 50, 51, ""),
        (2, 51, 50, ""),
    ]


def test_leaks_are_copies_in_two_splits(clusters):
    x, labels = clusters
    x[100] = x[0]
    x[101] = x[1]
    keys = list(range(200))
    keys[100], keys[101] = keys[0], keys[1]
    split = ["train" if label < 5 else "test" for label in labels]
    split[101] = "train"
    found = find_problems(x, labels, content_hashes=keys, splits={"the data": split}).of_kind("leak")
    assert [(one.row, one.other, one.note) for one in found] == [
        (0, 100, "in test and train of the data"),
        (100, 0, "in test and train of the data"),
    ]


def test_the_same_picture_is_verified(clusters):
    x, labels = clusters
    x[3], x[4] = x[2] + 1e-4, x[2] - 1e-4
    asked = []

    def same(first, second):
        asked.append((first, second))
        return 0.9 if {first, second} == {2, 3} else 0.0

    hashes = np.random.default_rng(0).integers(0, 2**63, 200, dtype=np.uint64)
    ranks = np.arange(200)
    ranks[3] = 0
    problems = find_problems(x, labels, same_picture=same, perceptual_hashes=hashes, ranks=ranks)
    assert [(one.row, one.score) for one in problems.of_kind("same picture")] == [(3, 1.0), (2, 0.9)]
    assert (2, 4) in asked
    assert {2, 4} & {one.row for one in problems.of_kind("similar")} == {4}
    assert 3 in {one.row for one in problems.of_kind("similar")}  # the leader of its group stands for 2


def test_an_outlier_is_far_from_everything_and_no_label_error(clusters):
    x, labels = clusters
    x[60] = -0.8 / np.sqrt(10)
    labels[61] = 9
    problems = find_problems(x, labels)
    assert [one.row for one in problems.of_kind("outlier")] == [60]
    assert [one.row for one in problems.of_kind("label error")] == [61]
    near = np.sort(np.linalg.norm(x - x[60], axis=1))[1:6].mean()
    of_all = [np.sort(np.linalg.norm(x - x[row], axis=1))[1:6].mean() for row in range(200)]
    around = np.mean([of_all[row] for row in np.linalg.norm(x - x[60], axis=1).argsort()[1:6]])
    usual = max(np.median([of_all[row] for row in np.flatnonzero(labels == 3)]), around)
    assert problems.of_kind("outlier")[0].score == pytest.approx(near / usual, rel=1e-5)


def test_a_wide_class_is_covered_worst(clusters):
    x, labels = clusters
    rng = np.random.default_rng(1)
    x[labels == 6] += rng.normal(0, 0.05, (20, 10))
    problems = find_problems(x, labels, centers=3)
    worst = problems.covers[0]
    assert worst.label == 6
    assert worst.needed > 3
    points = x[labels == 6].astype(np.float64)
    chosen = [int(np.linalg.norm(points, axis=1).argmax())]
    apart = np.linalg.norm(points - points[chosen[0]], axis=1)
    for _ in range(2):
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.linalg.norm(points - points[chosen[-1]], axis=1))
    assert worst.radius == pytest.approx(apart.max())
    assert worst.farthest[0][0] == np.flatnonzero(labels == 6)[apart.argmax()]


def test_pictures_without_labels_are_suggested_where_they_improve_the_cover(clusters):
    x, labels = clusters
    direction = np.zeros(10, np.float32)
    direction[8] = 0.2
    center = x[labels == 2].mean(0)
    extra = np.stack([center, center + direction, center + 0.9 * direction])
    problems = find_problems(np.concatenate([x, extra]), np.append(labels, [-1] * 3))
    [addition] = problems.additions
    assert addition.label == 2
    assert addition.chosen[0][0] == 201  # the farthest, whose neighbor is then covered
    assert addition.radius == pytest.approx(np.linalg.norm(x[labels == 2] - extra[1], axis=1).min())
    assert addition.chosen[0][1] < addition.radius


def test_the_order_of_the_pictures_does_not_matter(clusters):
    x, labels = clusters
    labels[::11] = (labels[::11] + 3) % 10
    order = np.random.default_rng(2).permutation(200)
    first, second = find_problems(x, labels), find_problems(x[order], labels[order])
    for kind in ("label error", "outlier"):
        assert {(one.row, round(one.score, 9)) for one in first.of_kind(kind)} == {
            (int(order[one.row]), round(one.score, 9)) for one in second.of_kind(kind)
        }


def test_names_of_classes_may_be_an_array(clusters):
    embeddings, labels = clusters[:2]
    names = [f"class {number}" for number in range(int(np.max(labels)) + 1)]
    given = [find_problems(embeddings, labels, class_names=kind) for kind in (names, np.array(names))]
    assert repr(given[0]) == repr(given[1])


def test_labels_may_be_any_numbers(clusters):
    """Such as those of products: an array of as many counts as the largest label filled the memory."""
    x, labels = clusters
    labels[::11] = (labels[::11] + 3) % 10
    x[100] = x[101]
    numbers = 4_006_381_000_000 + 1_000_003 * labels
    first = find_problems(x, labels, centers=4, content_hashes=[*range(100), 101, *range(101, 200)])
    second = find_problems(x, numbers, centers=4, content_hashes=[*range(100), 101, *range(101, 200)])
    as_number = {-1: -1, **dict(zip(labels.tolist(), numbers.tolist(), strict=True))}
    assert [one._replace(suggested=as_number[one.suggested]) for one in first.findings] == second.findings
    assert {one.kind for one in second.findings} >= {"exact copy", "label error", "cover"}
    np.testing.assert_array_equal(first.judged, second.judged)


@pytest.mark.parametrize(
    ("labels", "judged"),
    [([0], 0), ([0, 0, 0, 0], 0), ([0, 1], 0), ([0, 0, 0, 1], 3), ([-1, -1, -1], 0)],
)
def test_few_pictures_or_classes(labels, judged):
    x = np.linspace(0, 0.5, 2 * len(labels), dtype=np.float32).reshape(-1, 2)
    problems = find_problems(x, labels)
    assert problems.judged.sum() == judged
    assert problems.of_kind("exact copy") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[np.nan, 0.0]],), "embeddings: expected finite values, got nan in row 0"),
        (([0.0],), "embeddings: expected floating point of shape"),
        (([[0.0]], [0, 1]), "labels: expected 1 integers"),
        (([[0.0]], [-2]), "labels: expected 1 integers from -1"),
    ],
)
def test_wrong_arrays(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_problems(np.array(arguments[0]), *map(np.array, arguments[1:]))


@pytest.mark.parametrize(
    "options",
    [
        *({"centers": value} for value in (0, 2.5, "8")),
        *({"min_score": value} for value in (0.2, 1.0, "0.9", np.nan)),
        {"content_hashes": ["a"]},
        {"perceptual_hashes": np.zeros(3, np.uint64)},
        {"ranks": [0]},
        {"class_names": ["a"]},
        {"splits": ["train", "test"]},
        {"labels": np.ma.masked_array([0, 1], [False, True])},
    ],
)
def test_options_out_of_range_or_of_another_length(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        find_problems(np.zeros((2, 1)), **{"labels": [0, 1], **options})
    with pytest.raises(ValueError, match="mine: expected one for each of 2 pictures, got 1"):
        find_problems(np.zeros((2, 1)), splits={"mine": ["train"]})


def test_a_kind_that_is_none_is_named():
    problems = find_problems(np.eye(4, dtype=np.float32))
    assert problems.of_kind("label error") == []
    with pytest.raises(ValueError, match=r"^kind: expected one of exact copy, .*, got 'label errors'"):
        problems.of_kind("label errors")
