"""Filters of qdrant against the meaning of the language, in the client's embedded mode."""

import json

import pytest
from hypothesis import given, settings
from qdrant_client import QdrantClient, models

from ccpml.serving.filters import Filter, FilterError
from ccpml.serving.pictures import Digest
from ccpml.serving.qdrant.filters import qdrant_filter
from ccpml.serving.qdrant.points import payload_of
from ccpml.serving.storage.transaction import Facts
from tests.serving.filters.test_filters import ITEMS, NODES, evaluate


@pytest.fixture(scope="module")
def client():
    client = QdrantClient(":memory:")
    yield client
    client.close()


def passing(client, where, items):
    if client.collection_exists("items"):
        client.delete_collection("items")
    client.create_collection("items", models.VectorParams(size=1, distance=models.Distance.EUCLID))
    points = []
    for key, item in enumerate(items, 1):
        digest = Digest("", "", item["width"], item["height"], b"")
        facts = Facts(item["path"], 0, 0, item["label"], json.dumps(item["metadata"]), "")
        payload = {**payload_of(facts, digest), "id": key}
        points.append(models.PointStruct(id=key, vector=[0.0], payload=payload))
    client.upsert("items", points)
    return [point.id for point in client.scroll("items", where, limit=len(items))[0]]


@settings(max_examples=80, deadline=None)
@given(node=NODES, items=ITEMS)
def test_a_filter_passes_the_same_items_or_is_refused(client, node, items):
    try:
        where = qdrant_filter(Filter(node))
    except FilterError:
        return
    expected = [key for key, item in enumerate(items, 1) if evaluate(node, {**item, "id": key})]
    assert passing(client, where, items) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label = 'mug' and price < 20", [1]),
        ("not label = 'mug'", [2, 3]),
        ("color in ('red', 'blue') or price = 7.5", [1, 2]),
        ("label like 'mu%'", [1]),
        ("path contains 'SHOP'", [1, 2]),
        (r"path contains '100\\%'", []),
        ("label like 'BOWL'", [2]),
        ("label like '%'", [1, 2, 3]),
        ("color like '%'", [1]),
        ("price is null", [3]),
        ("label is null", [3]),
        ("sale = true", [2]),
        ("sale = 1", []),
        ("id >= 2 and width < 30", [2]),
        ("metadata.id = 1", []),
    ],
)
def test_filters_in_words(client, text, expected):
    items = [
        {"path": "/shop/a.jpg", "label": "mug", "width": 20, "height": 9, "metadata": {"price": 12, "color": "red"}},
        {"path": "/shop/b.png", "label": "bowl", "width": 20, "height": 9, "metadata": {"price": 7.5, "sale": True}},
        {"path": "/c.png", "label": "", "width": 30, "height": 9, "metadata": {"price": None}},
    ]
    assert passing(client, qdrant_filter(Filter.parse(text)), items) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label < 'm'", "qdrant orders no texts; expected = or != with label, got <"),
        (
            "path like '%.jpg'",
            "qdrant has few patterns; expected 'text', 'text%' or '%text%' with path, got '%.jpg'",
        ),
        ("price = 9007199254740993", "expected one with price, got 9007199254740993"),
        ('`a"b` = 1', 'qdrant has no keys with a quote or a backslash, got a"b'),
    ],
)
def test_what_qdrant_cannot_express_is_refused(text, message):
    with pytest.raises(FilterError) as error:
        qdrant_filter(Filter.parse(text))
    assert message in str(error.value)
