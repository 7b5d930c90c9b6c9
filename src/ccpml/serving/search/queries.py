"""Queries of a search: pictures, items of the index, or several pictures of one thing."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.artifacts import expand_home
from ccpml.data.images.formats import image_suffixes
from ccpml.data.images.read import BadImageError
from ccpml.data.sources.source import count_ignored
from ccpml.numbers import as_int, as_tuple, check_flags
from ccpml.progress import print_once
from ccpml.serving.collect import find_pictures
from ccpml.serving.embedder import Embedder
from ccpml.serving.embedding import embed_pictures
from ccpml.serving.filters import Filter
from ccpml.serving.items import Hit, Picture
from ccpml.serving.picture_index import PictureIndex, as_ids

__all__ = ["Query", "Reply", "ask", "find_queries", "mean_vector"]

_QUERIES: Final = 64  # searched at a time


@dataclass(frozen=True)
class Query:
    """What is searched for: one picture, one item of the index, or several of them that show one thing.

    Attributes:
        pictures: Pictures that are not in the index, or need not be.
        ids: Items of the index, which are no answers to this query.

    Raises:
        ValueError: If ``pictures`` are none, or ``ids`` are not several.
    """

    pictures: Sequence[Picture] = ()
    ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        pictures = as_tuple("pictures", self.pictures, "several pictures")  # an iterator would be read once
        for picture in pictures:
            if not isinstance(picture, Picture):
                raise ValueError(f"pictures: expected pictures, got {picture!r}; pass Picture(path) of each")
        object.__setattr__(self, "pictures", pictures)
        object.__setattr__(self, "ids", as_tuple("ids", self.ids, "several numbers of items"))


@dataclass(eq=False)
class Reply:
    """The answers to a query.

    Attributes:
        query: The query.
        label: Its class; empty if unknown, or if its pictures have several.
        hits: Answers by rank; None if no picture of the query can be read.
        thumbnails: A JPEG of each picture and then of each item of the query; None for those that cannot be read.
        skipped: Why pictures cannot be read.
    """

    query: Query
    label: str = ""
    hits: list[Hit] | None = None
    thumbnails: list[bytes | None] = field(default_factory=list)
    skipped: list[BadImageError] = field(default_factory=list)


def find_queries(
    given: Sequence[str], ids: Sequence[int] = (), together: bool = False, data_root: Path | str | None = None
) -> list[Query]:
    """Return the queries of some names; no picture is read.

    Args:
        given: Image files, whatever their suffix, or what `find_pictures` reads: folders, CSV files, patterns, sets.
            One of several that is not found is named by `ask`, which answers the others.
        ids: Items of the index.
        together: Whether all of them are one query.
        data_root: Folder of the benchmarks; see `load_source`.

    Raises:
        ValueError: If there is nothing of a name, or no pictures in it.

    Example:
        >>> len(find_queries([], [7, 42]))
        2
        >>> len(find_queries([], [7, 42], together=True))
        1
    """
    check_flags(together=together)
    given = as_tuple("given", given, "several names")
    ids = as_ids(ids)
    pictures = list[Picture]()
    for name in given:
        path = expand_home(name, "given")
        is_image = path.suffix.lower() in image_suffixes() and not set("*?[") & set(name)  # not a pattern of images
        is_one_of_several = is_image and len(given) + len(ids) > 1
        if (path.is_file() and path.suffix.lower() != ".csv") or (is_one_of_several and not os.path.lexists(path)):
            pictures.append(Picture(path))
        else:
            found = find_pictures(name, data_root)
            pictures.extend(found)
            if found.ignored:
                print_once(f"{name}: ignored {', '.join(count_ignored(found.ignored))}")
    if together:
        return [Query(pictures, list(ids))]
    return [Query([picture]) for picture in pictures] + [Query(ids=[key]) for key in ids]


def ask(
    index: PictureIndex,
    queries: Iterable[Query],
    k: int = 10,
    where: Filter | str | None = None,
    embedder: Embedder | None = None,
) -> Generator[Reply, None, None]:
    """Yield the k nearest items of each query, in order; memory does not grow with the number of queries.

    Items that a query names are no answers to it. A picture with the same contents as an item finds it, at
    distance 0 up to the rounding of the network. Several pictures of one thing are searched for by `mean_vector`.

    Args:
        index: The index.
        queries: The queries; an iterator of them is read first.
        k: Number of items.
        where: A filter; see `Filter`.
        embedder: The model of the index; it may be None if all queries are items.

    Raises:
        KeyError: If an item is not in the index.
        FilterError: If the filter cannot be understood, or names a field that no item has.
        OtherModelError: If the embedder is not the model of the index.
        ValueError: If ``queries`` are none, or ``k`` is no integer of at least 0.
    """
    k = as_int("k", k, 0)
    if embedder is not None:
        index.check_model(embedder)
    queries = as_tuple("queries", queries, "several queries")
    for query in queries:
        if not isinstance(query, Query):
            raise ValueError(f"queries: expected queries, got {query!r}; pass Query([Picture(path)]) of each")
    waiting, vectors = list[Reply](), list[NDArray[np.float32]]()
    for reply, vector in _embedded(index, queries, embedder):
        waiting.append(reply)
        vectors.append(vector)
        if len(waiting) == _QUERIES:
            yield from _answered(index, waiting, vectors, k, where)
            waiting, vectors = [], []
    yield from _answered(index, waiting, vectors, k, where)


def mean_vector(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vector of several pictures of one thing, float32 (d,): their mean direction, at their mean length.

    The mean itself is shorter than the vectors, by how much they differ, so that its distances could not be compared
    with those of a single picture.

    Args:
        vectors: φ-normalized vectors, float32 (N, d).

    Example:
        >>> mean_vector(np.float32([[1, 0], [0, 1]]))
        array([0.70710677, 0.70710677], dtype=float32)
    """
    mean = vectors.mean(axis=0, dtype=np.float64)  # (d,)
    length = np.linalg.norm(mean)
    if len(vectors) > 1 and length > 0:
        mean *= np.linalg.norm(vectors.astype(np.float64), axis=1).mean() / length
    vector: NDArray[np.float32] = mean.astype(np.float32)
    return vector


def _embedded(
    index: PictureIndex, queries: Sequence[Query], embedder: Embedder | None
) -> Iterator[tuple[Reply, NDArray[np.float32]]]:
    """Yield a reply without answers to each query, and its vector; (0, d) in place of (d,) if there is none."""
    contents = _contents(embedder, [picture for query in queries for picture in query.pictures])
    with closing(contents):
        yield from _joined(index, queries, contents)


def _joined(
    index: PictureIndex, queries: Sequence[Query], contents: Iterator[tuple[NDArray[np.float32], bytes] | BadImageError]
) -> Iterator[tuple[Reply, NDArray[np.float32]]]:
    for query in queries:
        reply, vectors, labels = Reply(query), [index.vectors(query.ids)], set[str]()
        for picture in query.pictures:
            found = next(contents)
            if isinstance(found, BadImageError):
                reply.skipped.append(found)
                reply.thumbnails.append(None)
            else:
                vectors.append(found[0][None])
                reply.thumbnails.append(found[1])
            labels.add(picture.label)
        for key in query.ids:
            reply.thumbnails.append(index.thumbnail(key))
            labels.add(index.item(key).label)
        reply.label = labels.pop() if len(labels) == 1 else ""
        known = np.concatenate(vectors)  # (N, d)
        yield reply, mean_vector(known) if len(known) else known


def _contents(
    embedder: Embedder | None, pictures: Sequence[Picture]
) -> Generator[tuple[NDArray[np.float32], bytes] | BadImageError, None, None]:
    """Yield vector and thumbnail of each picture, or why it cannot be read."""
    if not pictures:
        return
    if embedder is None:
        raise ValueError("queries: expected items of the index, got pictures; pass the model that embeds them")
    remaining = iter(pictures)
    with closing(embed_pictures(embedder, pictures)) as batches:
        for batch in batches:
            skipped = {id(picture): error for picture, error in batch.skipped}
            new = iter(batch.new)
            for picture in islice(remaining, len(batch)):
                if id(picture) in skipped:
                    yield skipped[id(picture)]
                else:
                    item = next(new)
                    yield item.vector, item.digest.thumbnail


def _answered(
    index: PictureIndex, replies: list[Reply], vectors: list[NDArray[np.float32]], k: int, where: Filter | str | None
) -> list[Reply]:
    """Return the replies with their answers."""
    asked = [(reply, vector) for reply, vector in zip(replies, vectors, strict=True) if vector.ndim == 1]
    if asked:
        more = max(len(reply.query.ids) for reply, _ in asked)
        answers = index.search(np.stack([vector for _, vector in asked]), k + more, where)
        for (reply, _), hits in zip(asked, answers, strict=True):
            others = [hit for hit in hits if hit.item.id not in reply.query.ids][:k]
            reply.hits = [hit._replace(rank=rank) for rank, hit in enumerate(others, 1)]
    return replies
