"""Metrics, read back by the rules of the text format."""

import re

import numpy as np

from ccpml.serving.service.metrics import Counter, Histogram
from tests.serving.service.conftest import encoded

_LINE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


def parsed(text: str) -> dict[str, float]:
    """Values by name with labels; checks that each name has one TYPE before its values."""
    assert text.endswith("\n")
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            _, kind, name, rest = line.split(" ", 3)
            if kind == "TYPE":
                assert name not in types
                types[name] = rest
            continue
        match = _LINE.match(line)
        assert match, line
        name, labels, value = match.groups()
        assert name in types or re.sub("_(bucket|sum|count)$", "", name) in types, line
        key = f"{name}{{{labels}}}" if labels else name
        assert key not in values
        values[key] = float(value)
    return values


def test_what_was_asked_is_counted(connect):
    client = connect()
    gray = encoded(np.full((9, 9, 3), 128, np.uint8))
    client.post("/api/search", files={"picture": gray})
    client.post("/api/search", files={"picture": gray}, data={"max_distance": "0"})
    client.post("/api/search", json={"id": 1})
    client.post("/api/search", json={"id": 99})
    client.get("/nowhere")
    client.get("/health", headers={"Host": "other"})
    response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(response.text)
    assert found['ccpml_searches_total{query="picture"}'] == 2
    assert found['ccpml_searches_total{query="item"}'] == 1
    assert found["ccpml_unanswered_total"] == 1
    assert found['ccpml_requests_total{route="/api/search",method="POST",status="200"}'] == 3
    assert found['ccpml_requests_total{route="/api/search",method="POST",status="404"}'] == 1
    assert found['ccpml_requests_total{route="other",method="GET",status="404"}'] == 1
    assert found['ccpml_refused_total{status="421"}'] == 1
    assert found["ccpml_first_distance_count"] == 3
    assert found["ccpml_embedding_seconds_count"] == 2
    assert found["ccpml_items"] == 20


def test_a_histogram_counts_what_is_at_most_each_bound():
    rng = np.random.default_rng(0)
    bounds, values = (0.1, 0.5, 1.0), rng.choice([0.05, 0.1, 0.3, 0.5, 0.9, 1.0, 7.0], 200)
    histogram = Histogram("h", "Help.", bounds, "route")
    for value in values:
        histogram.observe(value, "/x")
    found = parsed("\n".join(histogram.lines()) + "\n")
    for bound, text in zip(bounds, ("0.1", "0.5", "1"), strict=True):
        assert found[f'h_bucket{{route="/x",le="{text}"}}'] == (values <= bound).sum()
    assert found['h_bucket{route="/x",le="+Inf"}'] == found['h_count{route="/x"}'] == 200
    assert np.isclose(found['h_sum{route="/x"}'], values.sum())


def test_labels_are_escaped():
    counter = Counter("c", "Help.", ("name",))
    counter.add(1, 'a"b\\c\nd')
    assert list(counter.lines())[-1] == r'c{name="a\"b\\c\nd"} 1'
    assert len(parsed("\n".join(counter.lines()) + "\n")) == 1


def test_paths_of_clients_do_not_become_labels(connect):
    client = connect()
    for number in range(5):
        client.get(f"/api/items/{number + 1}")
        client.get(f"/made/up/{number}")
        client.request(f"MADE{number}", "/")
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("ccpml_requests_total")]
    assert sorted(lines) == [
        'ccpml_requests_total{route="/",method="other",status="405"} 5',
        'ccpml_requests_total{route="/api/items/{id}",method="GET",status="200"} 5',
        'ccpml_requests_total{route="other",method="GET",status="404"} 5',
    ]
