"""The certificate of a run: distances within which answers are right with a promised probability."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ccpml.artifacts import expand_home
from ccpml.files import check_readable, digest_of, load_json, write_json
from ccpml.numbers import plain_number
from ccpml.system_errors import raise_shortage

__all__ = ["CERTIFICATE_FILE", "Certificate", "CertificateError"]

CERTIFICATE_FILE: Final = "certificate.json"
"""Name of the certificate in a run directory."""

_FORMAT: Final = 1
_LARGEST: Final = 2.001
"""Above the distance of opposite vectors, with what rounding may add."""

_WAY_OUT: Final = "calibrate the run again"


class CertificateError(ValueError):
    """A certificate is missing, damaged, or of other weights."""


@dataclass(frozen=True)
class Certificate:
    """What ``ccpml calibrate`` found for a run; the content of ``certificate.json``.

    An *answer* to a query is one of its ``answers`` nearest images of the gallery, if its Euclidean distance between
    φ-normalized embeddings is at most a threshold; it is right if it shows the query's class. A promise is a precision
    p and the largest threshold found for it: over classes drawn like those of the calibration, the mean fraction of
    right answers of a class is at least p, which holds with probability ``confidence`` over the draw of the classes
    that were calibrated on. Each promise holds with this confidence by itself.

    Attributes:
        fingerprint: SHA-256 of the weights and the preprocessing that it is valid for.
        confidence: Probability, over the draw of the calibration classes, that a promise is kept.
        distances: Threshold of each promised precision, a distance in [0, 2]; it does not grow with the precision.
        answers: Number of nearest images of a query that count as answers.
        details: Everything else in the file, such as the observed rates; see ``docs/guarantee.md``.

    Example:
        >>> certificate = Certificate("0" * 64, 0.95, {0.8: 0.7, 0.9: 0.5})
        >>> certificate.precision_at(0.6), certificate.precision_at(0.8)
        (0.8, None)
        >>> certificate.distance_for(0.85), certificate.distance_for(0.95)
        (0.5, None)
    """

    fingerprint: str
    confidence: float
    distances: Mapping[float, float]
    answers: int = 1
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def precisions(self) -> tuple[float, ...]:
        """The promised precisions, ascending."""
        return tuple(sorted(self.distances))

    def precision_at(self, distance: float) -> float | None:
        """Return the largest promised precision whose threshold is at least ``distance``; None if there is none.

        It is the promise for answers *within* the threshold, of which one at the threshold is among the least sure.
        """
        return max((p for p, threshold in self.distances.items() if distance <= threshold), default=None)

    def distance_for(self, precision: float) -> float | None:
        """Return the largest threshold whose promised precision is at least ``precision``; None if there is none."""
        return max((threshold for p, threshold in self.distances.items() if p >= precision), default=None)

    def check(self, fingerprint: str, name: str = "certificate") -> None:
        """Check that the certificate is valid for weights and preprocessing.

        Args:
            fingerprint: That of the run in use.
            name: Name of the certificate for the error.

        Raises:
            CertificateError: If it was made with others.
        """
        if fingerprint != self.fingerprint:
            raise CertificateError(
                f"{name}: expected the certificate of the weights in use ({fingerprint[:12]}), got that of others "
                f"({self.fingerprint[:12]}); {_WAY_OUT}"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Certificate":
        """Read a certificate.

        Args:
            path: A run directory, or a certificate file.

        Raises:
            CertificateError: If there is none, or it is damaged.
        """
        file = expand_home(path)
        if file.is_dir() and file.name != CERTIFICATE_FILE:
            file /= CERTIFICATE_FILE
        try:
            check_readable(file, _WAY_OUT)
            content = _without_digest(load_json(file))
        except (OSError, ValueError, RecursionError) as error:
            raise_shortage(error)
            reason = str(error) if str(error).startswith(str(file)) else f"{file}: damaged ({error}); {_WAY_OUT}"
            raise CertificateError(reason) from error
        return cls.from_content(content, str(file))

    @classmethod
    def from_content(cls, content: Any, name: str) -> "Certificate":
        """Return the certificate of the content of a file, as `read` reads it.

        Args:
            content: Values of JSON.
            name: Name of the file, for errors.

        Raises:
            CertificateError: If it is not a certificate, or one of another format.
        """
        try:
            if content["format"] != _FORMAT:
                raise CertificateError(f"{name}: expected format {_FORMAT}, got {content['format']}; {_WAY_OUT}")
            rows = [*content.get("ladder", []), *content["promises"]]
            promises = [(row["precision"], row["distance"]) for row in rows]
            certificate = cls(
                fingerprint=content["fingerprint"],
                confidence=content["confidence"],
                distances={float(p): float(distance) for p, distance in promises if distance is not None},
                answers=content["answers"],
                details=content,
            )
        except CertificateError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CertificateError(f"{name}: not a certificate; {_WAY_OUT}") from error
        if not certificate._is_valid():
            raise CertificateError(f"{name}: not a certificate; {_WAY_OUT}")
        return certificate

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate into a run directory, whole or not at all, in place of an older one; return the file.

        Where ``details`` say something else than the other attributes, as those of a certificate that was read and
        changed, the others hold.

        Raises:
            CertificateError: If a number is out of range.
            WriteError: If it cannot be written.
        """
        file, answers = expand_home(path) / CERTIFICATE_FILE, plain_number(self.answers)
        head = {"format": _FORMAT, "fingerprint": self.fingerprint, "confidence": plain_number(self.confidence)}
        rows = [(plain_number(p), plain_number(self.distances[p])) for p in self.precisions]
        promises = [{"precision": p, "distance": distance} for p, distance in rows]
        own = {**head, "answers": answers, "promises": promises}
        content = json.loads(json.dumps({**own, **self.details}))
        if replace(Certificate.from_content(content, str(file)), details=self.details) != self:
            others = {name: value for name, value in self.details.items() if name != "ladder"}
            content = json.loads(json.dumps({**others, **own}))
            Certificate.from_content(content, str(file))
        write_json(file, {**content, "digest": digest_of(content)})
        return file

    def _is_valid(self) -> bool:
        numbers = [self.confidence, *self.distances, *self.distances.values()]
        finite = all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)
        typed = isinstance(self.fingerprint, str) and isinstance(self.answers, int)
        distances = all(0 <= distance < _LARGEST for distance in self.distances.values())
        return finite and typed and distances and all(0 < p < 1 for p in (self.confidence, *self.distances))


def _without_digest(content: Any) -> Any:
    """Return the content of a file without its digest, which certificates of older versions lack.

    Raises:
        ValueError: If it is another.
    """
    if isinstance(content, dict) and "digest" in content:
        digest = content.pop("digest")
        if digest != digest_of(content):
            raise ValueError("wrong digest")
    return content
