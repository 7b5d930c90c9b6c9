"""The address that a service listens on. Imports no library, so that a port in use is reported at once."""

import errno
import socket

__all__ = ["AddressError", "listen"]


class AddressError(ValueError):
    """An address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 is any free one.

    Raises:
        AddressError: If that is not possible.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(512)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise AddressError(f"{host}:{port}: already in use; stop what uses it, or choose another port") from error
        if number == errno.EACCES:
            raise AddressError(f"{host}:{port}: not permitted; choose a port above 1023") from error
        reason = str(getattr(error, "strerror", None) or error)
        raise AddressError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another address or port"
        ) from error
    return listener
