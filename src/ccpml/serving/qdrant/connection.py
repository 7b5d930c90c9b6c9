"""Calls of a qdrant server: repeated where that may help, and their failures in sentences."""

import json
import os
import re
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ccpml.extras import require_extra
from ccpml.serving.errors import QdrantError
from ccpml.serving.qdrant.address import API_KEY, Address

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Connection", "connect"]

TIMEOUT: Final = 30
"""Seconds after which a call is given up."""

READ_ATTEMPTS: Final = 2
WRITE_ATTEMPTS: Final = 6
"""Number of times that a call is made before its failure is an error."""

FIRST_WAIT: Final = 0.5
"""Seconds before the second attempt; each further wait is twice as long."""

LONGEST_WAIT: Final = 30.0
"""Bound of a wait that the server asks for."""


class Failure(NamedTuple):
    """Why a call failed, whether it may succeed if repeated, and the seconds that the server asks to wait."""

    text: str
    transient: bool
    wait: float = 0.0


def connect(address: Address) -> "QdrantClient":
    """Return a client; nothing is sent yet. The API key is read from the environment.

    Raises:
        MissingExtraError: If qdrant-client is not installed.
        QdrantError: If a key would be sent to another machine unencrypted.
    """
    require_extra(str(address), ["qdrant_client"], "qdrant")
    from qdrant_client import QdrantClient

    key = os.environ.get(API_KEY, "").strip() or None
    if key and not address.tls and not address.is_loopback:
        raise QdrantError(
            f"{address}: expected qdrants:// (TLS) to send {API_KEY} to another machine, got qdrant://; unset the key "
            "if the server needs none, or give the server a certificate"
        )
    headers = {"api-key": key} if key else None  # as an argument of its own, the client warns of unencrypted loopback
    return QdrantClient(
        url=f"{'https' if address.tls else 'http'}://{address.server}",
        timeout=TIMEOUT,
        headers=headers,
        check_compatibility=False,
    )


class Connection:
    """A client and the address it is connected to.

    Args:
        client: Client of the server.
        address: Named by errors.
        sleep: Waits for some seconds.
    """

    def __init__(self, client: "QdrantClient", address: Address, sleep: Callable[[float], Any] = time.sleep) -> None:
        self.client, self.address, self._sleep = client, address, sleep

    def read(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client that changes nothing.

        Raises:
            QdrantError: If it fails.
        """
        return self._call(method, READ_ATTEMPTS, arguments)

    def write(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client that can be repeated without harm, with more patience.

        Raises:
            QdrantError: If it fails.
        """
        return self._call(method, WRITE_ATTEMPTS, arguments)

    def once(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client that cannot be repeated: it may have been done although the answer was lost.

        Raises:
            QdrantError: If it fails.
        """
        return self._call(method, 1, arguments)

    def _call(self, method: str, attempts: int, arguments: dict[str, Any]) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return getattr(self.client, method)(collection_name=self.address.collection, **arguments)
            except Exception as error:
                failure = _explain(error, self.address)
                if failure is None:
                    raise
                if attempt == attempts or not failure.transient:
                    tried = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise QdrantError(f"{self.address}: {failure.text}{tried}") from error
                self._sleep(min(max(FIRST_WAIT * 2 ** (attempt - 1), failure.wait), LONGEST_WAIT))
        raise AssertionError("unreachable")


def _explain(error: Exception, address: Address) -> Failure | None:
    """Return what a failure of a call means; None if it is no failure of the server or of the way to it."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return Failure("expected an answer, got too many requests (429); try again later", True, error.retry_after_s)
    if isinstance(error, UnexpectedResponse):
        return _explain_status(error.status_code or 0, bytes(error.content), address)
    if isinstance(error, ResponseHandlingException):
        return _explain_transport(error.source, address)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):  # an answer that the client took for one of qdrant
        return _other_kind(address)
    return None


def _explain_transport(error: Exception, address: Address) -> Failure:
    import httpx

    reason = re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__
    if not isinstance(error, httpx.TransportError):
        return _other_kind(address)
    text, transient = f"the connection broke off ({reason})", True
    if not address.tls:
        text += "; if the server has TLS, use qdrants://"
    if isinstance(error, httpx.TimeoutException):
        text = f"expected an answer within {TIMEOUT} s, got none; check the address and the server"
    elif _has_cause(error, ssl.SSLCertVerificationError):
        text, transient = f"certificate not trusted ({reason}); name its authority in SSL_CERT_FILE", False
    elif _has_cause(error, ssl.SSLError):
        text, transient = f"expected TLS, got an error ({reason}); qdrant:// connects without TLS", False
    elif isinstance(error, httpx.ConnectError):
        text = f"expected a qdrant server at {address.server}, got no connection ({reason}); start it"
    return Failure(text, transient)


def _explain_status(status: int, content: bytes, address: Address) -> Failure:
    if status in {401, 403}:
        given = "the API key is not accepted" if os.environ.get(API_KEY) else "an API key is needed"
        return Failure(f"{given} ({status}); set {API_KEY}", False)
    try:
        reason = json.loads(content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        return _other_kind(address, f" ({status})", status >= 500)
    return Failure(f"the server refuses: {' '.join(str(reason).split())} ({status})", status >= 500)


def _other_kind(address: Address, status: str = "", transient: bool = False) -> Failure:
    text = f"expected a qdrant server at {address.server}, got an answer of another kind{status}"
    return Failure(text, transient)


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
