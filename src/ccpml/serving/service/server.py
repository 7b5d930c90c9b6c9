"""Serving of the application: a socket, uvicorn, and a clean end."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

from ccpml.serving.service.settings import ServiceSettings

__all__ = ["AddressInUseError", "bind", "serve"]


class AddressInUseError(OSError):
    """An address cannot be listened on."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 is any free one.

    Raises:
        AddressInUseError: If that is not possible.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(512)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise AddressInUseError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another address or port"
        ) from error
    return listener


def serve(app: Any, listener: socket.socket, settings: ServiceSettings) -> None:
    """Serve an application until SIGINT or SIGTERM; requests under way are finished.

    Args:
        app: The application.
        listener: A listening socket; closed at the end.
        settings: Bounds.
    """
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Stop at the first SIGINT or SIGTERM, and at once at the second; none is raised again afterwards."""
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10, ws="none"
    )
    Server(config).run(sockets=[listener])
