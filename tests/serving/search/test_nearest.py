import numpy as np
import pytest
from PIL import Image

from ccpml.serving import FilterError, Index, Picture
from tests.serving.embedders import ColorEmbedder

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    rng, pictures = np.random.default_rng(0), []
    for number in range(12):
        name = list(COLORS)[number % 3]
        pixels = np.clip(np.array(COLORS[name]) + rng.integers(-60, 60, (16, 20, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        metadata = {"price": number * 5} if number else {"sold out": True}
        pictures.append(Picture(folder / f"{number}.png", name, metadata))
    with Index.create(folder / "shop.index", ColorEmbedder()) as index:
        index.add(pictures)
        index.remove([4])
        yield index


def ids(hits):
    return [hit.item.id for hit in hits]


def test_only_items_that_pass_the_filter_are_ranked(shop):
    query = shop.vectors([7])  # red, as are 1, 4 and 10
    everything = shop.search(query, k=50)[0]
    assert len(everything) == 11
    assert ids(everything)[0] == 7
    assert everything[0].distance == 0
    assert {hit.item.label for hit in everything[:3]} == {"red"}
    for where, passes in {
        "label = 'blue' and price < 40": lambda item: item.label == "blue" and item.metadata.get("price", 99) < 40,
        "not label = 'red'": lambda item: item.label != "red",
        "price is null": lambda item: "price" not in item.metadata,
        "'sold out' = true or id in (2, 4)": lambda item: item.id in {1, 2},
        "width = 20 and path like '%/1_.png'": lambda item: item.id in {11, 12},
    }.items():
        expected = [hit for hit in everything if passes(hit.item)]
        found = shop.search(query, 50, where)[0]
        assert [(hit.item, hit.distance) for hit in found] == [(hit.item, hit.distance) for hit in expected]
        assert [hit.rank for hit in found] == list(range(1, len(expected) + 1))
    assert shop.search(query, 5, "price > 1000") == [[]]
    assert shop.search(query, 5, "price < 'a'") == [[]]


def test_a_field_that_no_item_has_is_an_error_that_names_those_there_are(shop):
    with pytest.raises(FilterError, match=r"^labl: unknown field; the index has id, path, .*, price, sold out; "):
        shop.search(shop.vectors([1]), 5, "labl = 'mug'")
    with pytest.raises(FilterError, match=r"^filter: expected "):
        shop.search(shop.vectors([1]), 5, "label =")


def test_queries_of_other_dimensions_are_refused(shop):
    with pytest.raises(ValueError, match="queries: expected vectors of 12 dimensions"):
        shop.search(np.zeros((2, 24)))
    with pytest.raises(ValueError, match="k: "):
        shop.search(shop.vectors([1]), -1)
    assert shop.search(shop.vectors([1]), 0) == [[]]
    assert shop.search([]) == []


def test_an_empty_index_has_no_answers(tmp_path):
    with Index.create(tmp_path / "x.index", ColorEmbedder()) as index:
        assert index.search(np.zeros((2, 12)), 5, "price < 3") == [[], []]
