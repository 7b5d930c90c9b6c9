"""Serving of the application: a socket, connections with bounds, and a clean end."""

import asyncio
import contextlib
import json
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ccpml.interrupts import ending_signals
from ccpml.progress import announce
from ccpml.serving.service.settings import ServiceSettings
from ccpml.system_errors import is_shortage, message_of

__all__ = ["serve"]

_SECONDS_BETWEEN: Final = 10.0


def serve(app: Any, listener: socket.socket, settings: ServiceSettings) -> None:
    """Serve an application until SIGINT, SIGTERM or SIGHUP; requests under way are finished, for up to 10 seconds.

    Args:
        app: The application.
        listener: A listening socket; closed at the end.
        settings: Bounds.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",  # of uvicorn, which would log its errors with a traceback; `_Server` enters it
        http=_bounded(settings),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what clients send wrong is no news
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    _logged = -math.inf

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve within the lifespan of the application; what it raises is raised."""
        app: Any = self.config.app
        asyncio.get_running_loop().set_exception_handler(self._log_error)
        with self.capture_signals():
            async with app.router.lifespan_context(app):
                await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End after the requests under way; say so where that takes a while."""
        text = "waiting for the requests under way (Ctrl-C again to stop at once)"
        told = asyncio.get_running_loop().call_later(1, announce, text)
        try:
            await super().shutdown(sockets)
        finally:
            told.cancel()

    def _log_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error of the loop; a shortage every ten seconds, as asyncio meets it 2,048 times a second."""
        error = context.get("exception")
        if not (isinstance(error, Exception) and is_shortage(error)):
            loop.default_exception_handler(context)
        elif loop.time() - self._logged >= _SECONDS_BETWEEN:
            self._logged = loop.time()
            logging.getLogger("uvicorn.error").error("%s", message_of(error))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal, at once at a second SIGINT; none is raised again afterwards."""
        before = {number: signal.signal(number, self.handle_exit) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bounded(settings: ServiceSettings) -> type[H11Protocol]:
    """Return the protocol of a connection that has to send its headers, and to read what it is sent, in time."""

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self._headers, self._reading = _Timer(), _Timer()
            if len(self.connections) > settings.max_connections:
                self._answer(503, "the service is busy; try again in a moment")
                return
            self._headers.start(self.loop, settings.timeout, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._headers.stop()
            self._reading.stop()

        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._headers.start(self.loop, settings.timeout, self.transport.abort)
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._headers.stop()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading.start(self.loop, settings.timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._reading.stop()

        def send_400_response(self, msg: str) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._answer(400, "the request is not valid HTTP")
            else:
                self.transport.abort()

        def _answer(self, status: int, detail: str) -> None:
            body = json.dumps({"detail": detail}).encode()
            head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            self.transport.close()

    return Bounded


class _Timer:
    """A call after some time, unless it is stopped before."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
        """Call after some seconds, unless the timer runs already."""
        if self._handle is None:
            self._handle = loop.call_later(seconds, call)

    def stop(self) -> None:
        """Do not call."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
