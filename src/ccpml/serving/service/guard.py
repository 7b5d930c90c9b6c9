"""What is checked before a request is looked at: addressee, origin, rate, token, and the size and pace of its body."""

import asyncio
import hmac
import ipaddress
import time
from collections import OrderedDict
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccpml.serving.service.metrics import Metrics
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.settings import ServiceSettings

__all__ = ["Guard", "RateLimit"]

_OPEN: Final = {"/", "/health", "/openapi.json"}
"""Paths that need no token."""

_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every response that does not set them itself."""

_DEFAULT_RATE: Final = 50.0
_MAX_CLIENTS: Final = 10_000


class RateLimit:
    """A bucket of requests for each client, which refills at a rate and holds those of two seconds, at least one.

    Args:
        rate: Requests per second; None is 50, and any number for loopback addresses.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate, self._spare_loopback = rate or _DEFAULT_RATE, rate is None
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> requests left, time

    def wait(self, address: str, now: float) -> float:
        """Count a request at a time in seconds; return 0 if it is allowed, else how long the client has to wait."""
        client, is_loopback = _client(address)
        if self._spare_loopback and is_loopback:
            return 0.0
        size = max(1.0, 2 * self._rate)
        left, last = self._buckets.pop(client, (size, now))
        left = min(size, left + (now - last) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        while len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


def _client(address: str) -> tuple[str, bool]:
    """Return the name under which an address is counted (of IPv6, its network), and whether it is loopback."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64], False
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False)), parsed.is_loopback
    return str(parsed), parsed.is_loopback


class Guard:
    """ASGI middleware that refuses what may not come in, and counts what does.

    Args:
        app: The application behind it.
        settings: Bounds.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._rate = RateLimit(settings.rate)
        self._held = 0  # bytes of the bodies of all requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server sends no body
            scope = {**scope, "method": "GET"}
        start, status, has_begun = time.perf_counter(), 500, False
        body = _Body(self, receive)

        async def send_checked(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not body.complete and _has_body(Headers(scope=scope)):
                    headers["connection"] = "close"  # the rest of the body is not read
            await send(message)

        try:
            try:
                self._check(scope)
            except RefusedError as error:
                self._metrics.refused.add(1, str(error.status))
                response = JSONResponse({"detail": error.detail}, error.status, error.headers)
                await response(scope, receive, send_checked)
            else:
                await self._app(scope, body.receive, send_checked)
        except asyncio.CancelledError:  # the service is stopped, and waits no longer
            if not has_begun:
                response = JSONResponse({"detail": "the service is stopping; try again in a moment"}, 503)
                await response(scope, receive, send_checked)
        finally:
            self._held -= body.size
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.add(1, route, _method(scope), str(status))
            self._metrics.seconds.observe(time.perf_counter() - start, route)

    def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self._settings
        if settings.hosts and _host_name(headers.get("host", "")) not in settings.hosts:
            raise RefusedError(421, "host: expected a name of this service, got another; add it to the allowed hosts")
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in {"GET", "HEAD"}
            and urlsplit(origin).netloc != headers.get("host")
        ):
            raise RefusedError(403, "origin: pages of other sites may not use the service")
        wait = self._rate.wait((scope.get("client") or ("", 0))[0], time.monotonic())
        if wait:
            raise RefusedError(429, "too many requests; try again later", {"Retry-After": str(int(wait) + 1)})
        if settings.token is not None and scope["path"] not in _OPEN:
            given = headers.get("authorization", "").partition(" ")
            right = given[0].lower() == "bearer" and hmac.compare_digest(
                given[2].strip().encode(), settings.token.encode()
            )
            if not right:
                raise RefusedError(401, "token: missing or wrong", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > settings.max_bytes:
            raise RefusedError(413, _too_many(settings))

    def hold(self, count: int) -> None:
        """Count received bytes, of all requests under way."""
        if self._held + count > self._settings.max_held_bytes:
            raise RefusedError(503, "the service is busy; try again in a moment", {"Retry-After": "1"})
        self._held += count

    @property
    def settings(self) -> ServiceSettings:
        """The bounds."""
        return self._settings


class _Body:
    """The body of a request: its size is counted as it comes, and it has to come in time."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._deadline: float | None = None
        self.size, self.complete = 0, False

    async def receive(self) -> Message:
        """Return the next part, or the news that the client has gone."""
        if self.complete:
            return await self._receive()
        settings = self._guard.settings
        if self._deadline is None:
            self._deadline = time.monotonic() + settings.timeout
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise RefusedError(408, f"body: not sent within {settings.timeout:g} seconds") from error
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            if self.size + count > settings.max_bytes:
                raise RefusedError(413, _too_many(settings))
            self._guard.hold(count)
            self.size += count
            self.complete = not message.get("more_body", False)
        return message


def _too_many(settings: ServiceSettings) -> str:
    return f"body: expected at most {settings.max_bytes:,} bytes"


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _host_name(host: str) -> str:
    """Return the header Host without its port, in lower case."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else host.strip().lower()


def _method(scope: Scope) -> str:
    """Return the method, one of those that are known, so that clients cannot make up labels of metrics."""
    method: Any = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"} else "other"
