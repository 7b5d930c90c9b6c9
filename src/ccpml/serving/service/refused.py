"""Why a request is refused: a status and one sentence."""

from collections.abc import Mapping

__all__ = ["RefusedError"]


class RefusedError(Exception):
    """A request is refused.

    Attributes:
        status: The status of the response.
        detail: One sentence for the client, without internals.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
