"""What is checked before a request is looked at."""

import asyncio

import numpy as np
import pytest

from ccpml.serving.service import ServiceSettings
from ccpml.serving.service.guard import Guard, RateLimit
from ccpml.serving.service.metrics import Metrics

TOKEN = "0123456789abcdef"


def test_a_token_is_needed_for_all_but_the_page_and_the_state_of_health(connect):
    client = connect(token=TOKEN)
    for path in ("/api/info", "/api/items/1", "/api/items/1/thumbnail", "/metrics", "/api/drift", "/nowhere"):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
        ):
            response = client.get(path, headers=headers)
            assert (response.status_code, response.json()) == (401, {"detail": "token: missing or wrong"})
            assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/health", "/openapi.json"):
        assert client.get(path).status_code == 200
    right = {"Authorization": f"bearer {TOKEN}"}
    assert client.get("/api/info", headers=right).json()["needs_token"] is True
    assert client.post("/api/search", json={"id": 1}).status_code == 401
    assert client.post("/api/search", json={"id": 1}, headers=right).status_code == 200


def test_only_names_of_this_machine_are_answered(connect):
    client = connect()
    for host in ("127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:9"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.", ""):
        response = client.get("/health", headers={"Host": host})
        assert response.status_code == 421, host
    assert connect(hosts=()).get("/health", headers={"Host": "any.example"}).status_code == 200


def test_pages_of_other_sites_cannot_use_it(connect):
    client = connect(writable=True)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000"):
        response = client.request("DELETE", "/api/items/1", headers={"Origin": origin})
        assert response.status_code == 403
        assert response.json()["detail"].startswith("origin:")
    assert client.delete("/api/items/1", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 204
    assert (
        "access-control-allow-origin" not in client.get("/api/info", headers={"Origin": "http://evil.example"}).headers
    )


def test_each_response_has_the_headers_that_browsers_obey(connect):
    client = connect()
    for response in (
        client.get("/api/info"),
        client.get("/nowhere"),
        client.get("/"),
        client.get("/x", headers={"Host": "e"}),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/api/info").headers["cache-control"] == "no-store"


def test_a_rate_that_is_set_holds_for_this_machine_too(connect):
    client = connect(rate=0.001, hosts=())  # so low that no pause of the machine allows another
    assert [client.get("/health").status_code for _ in range(4)] == [200, 429, 429, 429]
    assert 900 < int(client.get("/health").headers["retry-after"]) <= 1000


@pytest.mark.parametrize("rate", [0.5, 3, 40])
def test_a_client_gets_what_the_rate_allows_in_any_time(rate):
    limit, now, allowed = RateLimit(rate), 0.0, 0
    for step in range(4000):
        now = step * 0.01
        allowed += limit.wait("203.0.113.5", now) == 0
    burst = max(1, 2 * rate)
    assert burst + rate * now - 1 <= allowed <= burst + rate * now + 1


def test_clients_have_limits_of_their_own_and_networks_of_ipv6_share_one():
    limit = RateLimit(0.1)
    assert limit.wait("203.0.113.5", 0) == 0
    assert limit.wait("203.0.113.5", 0) == pytest.approx(10)
    assert limit.wait("203.0.113.6", 0) == 0
    assert limit.wait("2001:db8::1", 0) == 0
    assert limit.wait("2001:db8::2", 0) > 0
    assert limit.wait("2001:db8:0:1::2", 0) == 0
    assert limit.wait("not an address", 0) == 0


def test_without_a_rate_this_machine_is_not_limited():
    limit = RateLimit(None)
    assert all(limit.wait("127.0.0.1", 0) == 0 for _ in range(1000))
    assert sum(limit.wait("203.0.113.5", 0) == 0 for _ in range(1000)) == 100


def exchange(guard, scope_changes=(), parts=()):
    """Send a request to a guard; return status and body of the response."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        **dict(scope_changes),
    }
    sent, queue = [], list(parts)

    async def receive():
        if not queue:
            await asyncio.sleep(60)
        return queue.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


def reading_app(results):
    """An application that reads the body."""
    from ccpml.serving.service.refused import RefusedError

    async def app(scope, receive, send):
        status, more = 200, True
        try:
            while more:
                more = (await receive()).get("more_body", False)
        except RefusedError as error:
            status = error.status
        results.append(status)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def part(size, more=True):
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_that_comes_slowly_is_given_up():
    results = []
    guard = Guard(reading_app(results), ServiceSettings(timeout=0.05), Metrics())
    assert exchange(guard, parts=[part(10)]) == 408


def test_the_bodies_of_all_requests_together_are_bounded():
    results = []
    guard = Guard(reading_app(results), ServiceSettings(max_held_bytes=100, max_bytes=90), Metrics())
    guard.hold(50)  # of another request under way
    assert exchange(guard, parts=[part(40), part(20, more=False)]) == 503
    guard.hold(-50)
    assert exchange(guard, parts=[part(40), part(20, more=False)]) == 200
    assert exchange(guard, parts=[part(40), part(51, more=False)]) == 413


def test_a_length_that_is_too_large_is_refused_before_the_body_is_read():
    results = []
    guard = Guard(reading_app(results), ServiceSettings(max_bytes=90), Metrics())
    for length in (b"91", b"-1", b"many"):
        headers = [(b"host", b"localhost"), (b"content-length", length)]
        assert exchange(guard, {"headers": headers}) == 413
    assert results == []


WRONG = {
    **dict.fromkeys(("max_bytes", "max_held_bytes", "max_pixels", "queue"), (0, -1, 1.5, "5", None, True)),
    **dict.fromkeys(("max_k", "max_pictures", "workers"), (0, 2000, 1.5, "5", None, True)),
    **{name: (0, -1.0, float("nan"), "5", True) for name in ("timeout", "rate")},
    "token": (
        "short",
        b"0123456789abcdef",
        3,
        "0123456789abcdef ",
        " 0123456789abcdef",
        "0123456789\tabcdef",
        "é" * 16,
    ),
}


def test_settings_of_another_kind_or_out_of_range_are_named():
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}: expected"):
                ServiceSettings(**{name: value})
    assert ServiceSettings(max_k=np.int64(5), rate=np.float32(2), timeout=3).max_k == 5
    with pytest.raises(ValueError, match=r"^hosts: expected several names, got localhost alone"):
        ServiceSettings(hosts="localhost")  # whose letters would be names
    for name in (
        "https://pics.example.com/",
        "pics.example.com:8443",
        "*",
        "*.example.com",
        "::1",
        "",
        "bücher.example",
    ):
        with pytest.raises(ValueError, match=r"^hosts: expected names without scheme, port and \*, such as .*, got '"):
            ServiceSettings(hosts=("localhost", name))  # it would never match
