"""Pictures read in threads and embedded in batches of bounded size."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.data.images.read import BadImageError
from ccpml.data.threads import in_threads
from ccpml.serving.embedder import Embedder, embed_checked
from ccpml.serving.items import Picture
from ccpml.serving.pictures import Content, Digest, NewItem, content_hash, digest, read_picture

__all__ = ["Batch", "embed_pictures"]

_PICTURES: Final = 64  # of a batch at most
_BYTES: Final = 64 * 2**20  # contents of a batch, unless a single file is larger


@dataclass
class Batch:
    """Pictures that were embedded, recognized, or skipped as they cannot be read."""

    new: list[NewItem] = field(default_factory=list)
    known: list[tuple[Picture, Content, str]] = field(default_factory=list)  # with the SHA-256
    skipped: list[tuple[Picture, BadImageError]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.new) + len(self.known) + len(self.skipped)


class _Read(NamedTuple):
    """Contents of a picture, its SHA-256, its digest unless it is known, or why it cannot be read."""

    content: Content | None = None
    content_hash: str = ""
    digest: Digest | None = None
    error: BadImageError | None = None


def embed_pictures(
    embedder: Embedder, pictures: Iterable[Picture], is_known: Callable[[str, str], bool] | None = None
) -> Generator[Batch, None, None]:
    """Yield pictures in batches, in order.

    Args:
        embedder: The model.
        pictures: The pictures.
        is_known: Whether a picture with a path and a SHA-256 need not be embedded; called in threads.

    Raises:
        ValueError: If an embedding is not finite, or has another size than the model says.
    """

    def read(picture: Picture) -> _Read:
        try:
            content = read_picture(picture)
            key = content_hash(content.content)
            if is_known is not None and is_known(content.path, key):
                return _Read(content, key)
            return _Read(content, key, digest(content.content))
        except BadImageError as error:
            named = BadImageError(error.reason, picture.name)
            named.__cause__ = error.__cause__
            return _Read(error=named)

    batch, size = list[tuple[Picture, _Read]](), 0
    with closing(in_threads(read, pictures)) as results:
        for picture, result in results:
            batch.append((picture, result))
            size += 0 if result.content is None else len(result.content.content)
            if len(batch) == _PICTURES or size > _BYTES:
                yield _embedded(embedder, batch)
                batch, size = [], 0
        if batch:
            yield _embedded(embedder, batch)


def _embedded(embedder: Embedder, batch: list[tuple[Picture, _Read]]) -> Batch:
    result = Batch()
    new = list[tuple[Picture, Content, Digest]]()
    for picture, read in batch:
        if read.content is None:
            assert read.error is not None
            result.skipped.append((picture, read.error))
        elif read.digest is None:
            result.known.append((picture, read.content, read.content_hash))
        else:
            new.append((picture, read.content, read.digest))
    for (picture, content, found), vector in zip(new, _vectors(embedder, new), strict=True):
        if isinstance(vector, BadImageError):
            result.skipped.append((picture, vector))
        else:
            result.new.append(
                NewItem(content.path, content.size, content.mtime_ns, picture.label, picture.metadata, found, vector)
            )
    return result


def _vectors(
    embedder: Embedder, new: list[tuple[Picture, Content, Digest]]
) -> list[NDArray[np.float32] | BadImageError]:
    """Return the embedding of each picture, float32 (d,), or why there is none."""
    if not new:
        return []
    try:
        names = [picture.path for picture, _, _ in new]
        return list(embed_checked(embedder, [content.content for _, content, _ in new], names))
    except BadImageError as error:
        if len(new) > 1:
            return [_vectors(embedder, [one])[0] for one in new]
        return [BadImageError(error.reason, new[0][0].name)]
