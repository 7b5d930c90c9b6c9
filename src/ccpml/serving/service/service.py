"""What the service does, without HTTP: check pictures, search, add, remove."""

import hashlib
import io
import json
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.data.images.formats import pillow_formats
from ccpml.data.images.read import BadImageError
from ccpml.files import write_bytes
from ccpml.serving.embedder import Embedder
from ccpml.serving.index import Index, Summary
from ccpml.serving.items import Hit, Item, Picture
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.settings import ServiceSettings

__all__ = ["Answer", "Question", "Service"]

_NEAR_BITS: Final = 4
"""Two pictures look the same if their perceptual hashes differ in at most so many of 64 bits."""

_SUFFIXES: Final = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "PPM": ".ppm"}


class Question(NamedTuple):
    """A search: an item's id or pictures, and how to search."""

    pictures: Sequence[bytes]
    id: int | None
    k: int
    where: str
    max_distance: float | None
    hide_duplicates: bool


class Answer(NamedTuple):
    """Hits and whether each looks like one before it; size of what was searched for; the digest of its first picture.

    ``answered`` is whether there is a hit within the distance.
    """

    hits: list[tuple[Hit, bool]]
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
    """

    def __init__(self, index: Index, embedder: Embedder, settings: ServiceSettings) -> None:
        self.index, self.embedder, self.settings = index, embedder, settings
        self._lock = threading.RLock()

    def search(self, question: Question) -> Answer:
        """Return the answer to a search.

        Raises:
            RefusedError: If a picture cannot be used, or an item is not found.
        """
        if question.id is not None:
            item, vector = self.item(question.id), self._vector_of(question.id)
            width, height, digest = item.width, item.height, None
        else:
            sizes = [self.check_picture(picture) for picture in question.pictures]
            (width, height, _), digest = sizes[0], hashlib.sha256(question.pictures[0]).hexdigest()
            vector = self._embed(question.pictures)
        extra = question.k if question.hide_duplicates else 0
        with self._lock:
            hits = self.index.search(vector, question.k + extra + 1)[0]
        kept = [hit for hit in hits if hit.item.id != question.id]
        marked = _mark_duplicates(kept)
        if question.hide_duplicates:
            marked = [(hit, twin) for hit, twin in marked if not twin]
        limit = question.max_distance
        near = [(hit, twin) for hit, twin in marked if limit is None or hit.distance <= limit][: question.k]
        note = "" if near else _why_none(kept, limit)
        return Answer(near, width, height, digest, bool(near), note)

    def item(self, key: int) -> Item:
        """Return an item.

        Raises:
            RefusedError: If there is none with this id.
        """
        try:
            with self._lock:
                return self.index.item(key)
        except KeyError as error:
            raise RefusedError(404, f"id: no item {key}") from error

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG.

        Raises:
            RefusedError: If there is none with this id.
        """
        try:
            with self._lock:
                return self.index.thumbnail(key)
        except KeyError as error:
            raise RefusedError(404, f"id: no item {key}") from error

    def add(self, content: bytes, label: str, metadata: dict[str, Any]) -> Item:
        """Add a picture, which is kept in the directory of the index under the digest of its content.

        Raises:
            RefusedError: If it cannot be read.
        """
        _, _, kind = self.check_picture(content)
        suffix = _SUFFIXES.get(kind, f".{kind.lower()}")
        file = self.index.path / "pictures" / f"{hashlib.sha256(content).hexdigest()}{suffix}"
        with self._lock:
            if not file.exists():
                write_bytes(file, content)
            added = self.index.add([Picture(file, label, metadata)])
            if added.skipped:
                raise RefusedError(422, f"picture: {added.skipped[0].reason}")
            return self.index.item(added.ids[0])

    def remove(self, key: int) -> None:
        """Remove an item.

        Raises:
            RefusedError: If there is none with this id.
        """
        with self._lock:
            if not self.index.remove([key]):
                raise RefusedError(404, f"id: no item {key}")

    def check_picture(self, content: bytes) -> tuple[int, int, str]:
        """Return width, height and format of a picture, from its header, before it is decoded.

        Raises:
            RefusedError: If it is no picture, or has too many pixels.
        """
        if not content:
            raise RefusedError(422, "picture: the file is empty")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
                    width, height, kind = image.width, image.height, image.format or ""
        except Image.DecompressionBombError as error:
            raise RefusedError(413, f"picture: {self._pixel_limit()}, got far more") from error
        except Exception as error:  # damaged headers make Pillow raise almost anything
            raise RefusedError(422, "picture: not an image of a known format, or damaged header") from error
        if width * height > self.settings.max_pixels:
            raise RefusedError(413, f"picture: {self._pixel_limit()}, got {width} × {height}")
        return width, height, kind

    def _pixel_limit(self) -> str:
        return f"expected at most {self.settings.max_pixels / 1e6:g} million pixels"

    def _vector_of(self, key: int) -> NDArray[np.float32]:
        with self._lock:
            return self.index.vectors([key])

    def _embed(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the mean embedding of pictures of one thing, float32 (1, d); its norm is at most 1, as theirs."""
        try:
            vectors = np.asarray(self.embedder.embed(pictures), dtype=np.float32)  # (P, d)
        except BadImageError as error:
            raise RefusedError(422, f"picture: {error.reason}") from error
        mean: NDArray[np.float32] = vectors.mean(axis=0, keepdims=True)
        return mean

    def summary(self) -> Summary:
        """Return facts about the index."""
        with self._lock:
            return self.index.summary()


def _mark_duplicates(hits: Sequence[Hit]) -> list[tuple[Hit, bool]]:
    """Return hits with whether each has the content or looks of one before it."""
    seen, marked = list[tuple[str, int]](), list[tuple[Hit, bool]]()
    for hit in hits:
        content, looks = hit.item.content_hash, int(hit.item.perceptual_hash or "0", 16)
        twin = any(content == other or (looks ^ code).bit_count() <= _NEAR_BITS for other, code in seen)
        marked.append((hit, twin))
        if not twin:
            seen.append((content, looks))
    return marked


def _why_none(hits: Sequence[Hit], limit: float | None) -> str:
    if not hits:
        return "no picture matches"
    return f"no picture within the distance {limit:.3f}; the nearest is at {hits[0].distance:.3f}"


def read_metadata(text: str) -> dict[str, str | int | float | bool | None]:
    """Return metadata from a JSON object of plain values.

    Raises:
        RefusedError: If the text is something else.
    """
    try:
        value = json.loads(text or "{}", parse_constant=lambda name: {})
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or any(isinstance(part, dict | list) for part in value.values()):
        raise RefusedError(422, "metadata: expected a JSON object of text, numbers, true, false and null")
    return value


def model_name(path: Path) -> str:
    """Return the name of a run, without its folders."""
    return path.name
