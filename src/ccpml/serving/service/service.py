"""What the service does, without HTTP: search, add, remove, record verdicts."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.calibration import Certificate, CertificateError
from ccpml.data.images.read import BadImageError, read_image
from ccpml.exported import find_certificate
from ccpml.files import write_bytes
from ccpml.serving.embedder import Embedder, embed_checked
from ccpml.serving.ensemble import EnsembleEmbedder
from ccpml.serving.errors import IndexBusyError
from ccpml.serving.filters import FilterError
from ccpml.serving.interface import PictureIndex
from ccpml.serving.items import Hit, Item, Picture, Summary
from ccpml.serving.search.queries import mean_vector
from ccpml.serving.search.reranked import Reranked
from ccpml.serving.service.drift import Drift
from ccpml.serving.service.feedback import Feedback, RecentQueries, is_in_feedback
from ccpml.serving.service.metrics import Metrics
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.settings import ServiceSettings
from ccpml.serving.service.uploads import check_upload

__all__ = ["Answer", "Question", "Service", "mark_duplicates"]

NEAR_BITS: Final = 4
"""Two pictures look the same if their perceptual hashes differ in at most so many of 64 bits."""


class Question(NamedTuple):
    """A search: an item's id or pictures, and how to search."""

    pictures: Sequence[bytes]
    id: int | None
    k: int
    where: str
    max_distance: float | None
    precision: float | None
    hide_duplicates: bool


class Answer(NamedTuple):
    """Hits, the certified precision of each, and whether each looks like one before it; the size of the query.

    ``digest`` is that of the first picture; ``answered`` is whether there is a hit within the bounds.
    """

    hits: list[tuple[Hit, float | None, bool]]
    width: int
    height: int
    digest: str | None
    answered: bool
    note: str


class Service:
    """An index and its model, behind checks. Its methods can be called from several threads.

    Args:
        index: The index, opened with its model.
        embedder: The model.
        settings: Bounds and permissions.

    Attributes:
        certificate: The certificate of the run; None if there is none that is valid for its weights.
        note: Why the certificate beside the run is not used; empty otherwise.
    """

    def __init__(self, index: PictureIndex, embedder: Embedder, settings: ServiceSettings) -> None:
        self.index, self.embedder, self.settings = index, embedder, settings
        self.metrics, self.drift = Metrics(), Drift()
        self.recent, self.feedback = RecentQueries(), Feedback(index)
        self.certificate, self.note = _read_certificate(embedder)
        if self.certificate and isinstance(getattr(index, "scan", None), Reranked):
            self.certificate, self.note = None, "certified precisions are of the nearest hits; these are ranked again"
        self._writing = threading.Lock()
        self._pictures = index.path.absolute() / "pictures"
        if settings.writable and self._pictures.is_dir():
            index.find_own_pictures(self._pictures)
        self._summary: tuple[int, Summary] | None = None

    def generation(self) -> int:
        """Return the number of changes of the index."""
        return self.index.version

    def summary(self) -> Summary:
        """Return facts about the index, which are read again when it has changed."""
        generation = self.generation()
        if self._summary is None or self._summary[0] != generation:
            self._summary = (generation, self.index.summary())
        return self._summary[1]

    def search(self, question: Question) -> Answer:
        """Return the answer to a search.

        Raises:
            RefusedError: If a picture cannot be used, an item is not found, or a bound is not certified.
        """
        limit, several = self._limit(question), len(question.pictures) > 1
        if question.id is None:
            uploads = [
                check_upload(content, self.settings.max_pixels, f"picture {number}" if several else "picture")
                for number, content in enumerate(question.pictures, 1)
            ]
            vector, size, digest = self._embed(question.pictures), uploads[0][3:], uploads[0].digest
            if self.settings.feedback:
                self.recent.add(uploads[0])
        else:
            item = self.item(question.id)
            vector, size, digest = self._vector(question.id), (item.width, item.height), None
        start = time.perf_counter()
        spare = 2 * question.k if question.hide_duplicates else 0
        try:
            found = self.index.search(vector, question.k + spare + 1, question.where or None)[0]
        except FilterError as error:
            raise RefusedError(422, f"where: {error}") from error
        hits = [hit for hit in found if hit.item.id != question.id]
        hits = [hit._replace(rank=rank) for rank, hit in enumerate(hits, 1)]
        self.metrics.lookup.observe(time.perf_counter() - start)
        kept = [(hit, twin) for hit, twin in mark_duplicates(hits) if not (twin and question.hide_duplicates)]
        near = [(hit, twin) for hit, twin in kept if limit is None or hit.distance <= limit][: question.k]
        self._count(question, hits, bool(near))
        answers = [(hit, None if several else self._precision(hit), twin) for hit, twin in near]
        return Answer(answers, *size, digest, bool(near), "" if near else _why_none(hits, limit))

    def _limit(self, question: Question) -> float | None:
        """Return the largest distance of a hit."""
        limits = [] if question.max_distance is None else [question.max_distance]
        if question.precision is not None:
            if self.certificate is None:
                raise RefusedError(422, f"precision: {self._why_uncertified()}")
            distance = self.certificate.distance_for(question.precision)
            if distance is None:
                most = max(self.certificate.distances, default=None)
                known = "no precision is certified" if most is None else f"expected at most {most:g}, as certified"
                raise RefusedError(422, f"precision: {known}, got {question.precision:g}")
            limits.append(distance)
        return min(limits, default=None)

    def _why_uncertified(self) -> str:
        """Return why no hit has a certified precision, without names of files, which are no concern of clients."""
        if isinstance(getattr(self.index, "scan", None), Reranked):
            return "hits are ranked again here, and have no certified one"
        if isinstance(self.embedder, EnsembleEmbedder):
            return "hits are of several models together, which have no certified one; leave it out"
        if self.note:
            return "the certificate of the model cannot be used; the log of the service says why"
        return "the model has no certificate, which `ccpml calibrate` makes"

    def _precision(self, hit: Hit) -> float | None:
        """Return the certified precision of a hit; None where the certificate does not reach."""
        if self.certificate is None or hit.rank > self.certificate.answers:
            return None
        return self.certificate.precision_at(hit.distance)

    def _count(self, question: Question, hits: Sequence[Hit], answered: bool) -> None:
        self.metrics.searches.add(1, "picture" if question.id is None else "item")
        if not answered:
            self.metrics.unanswered.add()
        if hits:
            self.metrics.distances.observe(hits[0].distance)
        if hits and question.id is None and not question.where and len(question.pictures) == 1:
            self.drift.add(hits[0].distance)  # filters and means of pictures have distances of their own

    def item(self, key: int) -> Item:
        """Return an item.

        Raises:
            RefusedError: If there is none with this id.
        """
        try:
            return self.index.item(key)
        except KeyError as error:
            raise RefusedError(404, f"id: no item {key}") from error

    def _vector(self, key: int) -> NDArray[np.float32]:
        try:
            return self.index.vectors([key])
        except KeyError as error:  # removed just now
            raise RefusedError(404, f"id: no item {key}") from error

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG.

        Raises:
            RefusedError: If there is none with this id.
        """
        try:
            return self.index.thumbnail(key)
        except KeyError as error:
            raise RefusedError(404, f"id: no item {key}") from error

    def add(self, content: bytes, label: str, metadata: dict[str, Any]) -> Item:
        """Add a picture, which is kept in the directory of the index under the digest of its content.

        The same picture added before is replaced.

        Raises:
            RefusedError: If it cannot be read.
        """
        upload = check_upload(content, self.settings.max_pixels)
        file = self._pictures / f"{upload.digest}{upload.suffix}"
        with self._changing():
            is_new = not file.exists()
            if is_new:
                write_bytes(file, content)
            try:
                added = self.index.add([Picture(file, label, metadata)])
                if added.skipped:
                    raise RefusedError(422, f"picture: {added.skipped[0].reason}")
            except BaseException:
                if is_new:
                    file.unlink(missing_ok=True)
                raise
            return self.index.item(added.ids[0])

    def remove(self, key: int) -> None:
        """Remove an item; its picture too, if it was added through the service and feedback does not use it.

        Raises:
            RefusedError: If there is none with this id.
        """
        with self._changing():
            path = self.item(key).path
            if not self.index.remove([key]):
                raise RefusedError(404, f"id: no item {key}")
            file = self._pictures / path.rpartition("/")[2]
            if str(file) == path and not is_in_feedback(self.index.path, f"pictures/{file.name}"):
                with suppress(OSError):
                    file.unlink()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the index, one request at a time; another process that does so is named.

        Raises:
            ValueError: If the index that was opened is no longer there, or another one is in its place.
        """
        with self._writing:
            self.index.check()
            try:
                yield
            except IndexBusyError as error:
                raise RefusedError(503, "the index is being changed; try again later", {"Retry-After": "10"}) from error

    def record(self, query: int | str, key: int, verdict: str) -> int:
        """Record a verdict about a hit of an item or a picture; return the number of verdicts.

        Raises:
            RefusedError: If item, picture or hit are not found.
        """
        self.index.check()
        asked = self.item(query) if isinstance(query, int) else self.recent.find(query)
        count = self.feedback.record(asked, self.item(key), verdict)
        self.metrics.verdicts.add(1, verdict)
        return count

    def _embed(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the vector of pictures of one thing, float32 (d,)."""
        start = time.perf_counter()
        try:
            vectors = embed_checked(self.embedder, pictures)  # (P, d)
        except BadImageError as error:
            number = _first_broken(pictures) if len(pictures) > 1 else ""
            raise RefusedError(422, f"picture{number}: {error.reason}") from error
        self.metrics.embedding.observe(time.perf_counter() - start)
        return mean_vector(vectors)


def _first_broken(pictures: Sequence[bytes]) -> str:
    """Return which of several pictures cannot be decoded, as it follows the word in a message."""
    for number, content in enumerate(pictures, 1):
        try:
            read_image(content, channels=3)
        except BadImageError:
            return f" {number}"
    return ""


def _read_certificate(embedder: Embedder) -> tuple[Certificate | None, str]:
    """Return the certificate of a model, and why it is not used; an ensemble has none."""
    if isinstance(embedder, EnsembleEmbedder):
        return None, ""
    try:
        certificate = find_certificate(embedder.path, embedder.fingerprint)
    except CertificateError as error:
        return None, f"{error}; until then, hits have no certified precision"
    return certificate, ""


def mark_duplicates(hits: Sequence[Hit]) -> list[tuple[Hit, bool]]:
    """Return hits with whether each has the content or the looks of one before it."""
    seen, marked = list[tuple[str, int]](), list[tuple[Hit, bool]]()
    for hit in hits:
        content, looks = hit.item.content_hash, int(hit.item.perceptual_hash or "0", 16)
        twin = any(content == other or (looks ^ code).bit_count() <= NEAR_BITS for other, code in seen)
        marked.append((hit, twin))
        if not twin:
            seen.append((content, looks))
    return marked


def _why_none(hits: Sequence[Hit], limit: float | None) -> str:
    if not hits:
        return "no picture matches"
    return f"no picture within the distance {limit:.3f}; the nearest is at {hits[0].distance:.3f}"
