"""Random changes of an index, in a process that may be killed at any moment, and what must be true afterwards.

Each change is written to a log before it begins and after it was acknowledged. Pictures have a number, and a version
that changes their pixels; both are in the path and metadata of an item, so that its vector is known.
"""

import io
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ccpml.serving import Index, Picture, Pictures
from tests.serving.embedders import ColorEmbedder

NUMBERS = 30
SOURCE = "made"
EMBEDDER = ColorEmbedder()


def content(number: int, version: int) -> bytes:
    """The file of a picture: a PNG."""
    pixels = np.random.default_rng([number, version]).integers(0, 256, (6, 6, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def picture(number: int, version: int) -> Picture:
    """A picture that is in no file."""
    metadata = {"number": number, "version": version}
    return Picture(Path(f"made[{number}]"), f"class {number % 3}", metadata, content(number, version))


def state_of(index: Index) -> dict[int, int]:
    """The version of each number in an index; checks that ids, vectors, thumbnails and counts belong together."""
    items = index.items()
    found = {item.metadata["number"]: item.metadata["version"] for item in items}
    assert len(found) == len(items) == len(index)
    for item in items:
        number, version = item.metadata["number"], item.metadata["version"]
        assert item.path == f"made[{number}]"
        assert np.array_equal(index.vectors([item.id])[0], EMBEDDER.embed([content(number, version)])[0])
        assert index.thumbnail(item.id).startswith(b"\xff\xd8")
        assert index.item(item.id) == item
    return found


def check_search(index: Index, state: dict[int, int]) -> None:
    """Check that a search finds exactly the items of a state, at the distances of the definition."""
    query = EMBEDDER.embed([content(999, 0)])
    vectors = EMBEDDER.embed([content(number, version) for number, version in state.items()])
    expected = np.sort(np.linalg.norm(vectors - query, axis=1)) if state else np.empty(0)
    hits = index.search(query, k=NUMBERS + 5)[0] if state else []
    assert sorted(hit.item.metadata["number"] for hit in hits) == sorted(state)
    assert np.allclose([hit.distance for hit in hits], expected, atol=1e-3)


def change(index: Index, kind: str, numbers: Iterable[int], version: int) -> None:
    """Make a change: add or synchronize pictures of a version, remove pictures, or compact."""
    if kind == "add":
        index.add([picture(number, version) for number in numbers], source=SOURCE)
    elif kind == "sync":
        index.sync(Pictures(SOURCE, [picture(number, version) for number in numbers]))
    elif kind == "remove":
        wanted = set(numbers)
        index.remove([item.id for item in index.items() if item.metadata["number"] in wanted])
    else:
        index.compact()


def changed(state: dict[int, int], kind: str, numbers: Iterable[int], version: int) -> dict[int, int]:
    """The state after a change."""
    if kind == "add":
        return {**state, **dict.fromkeys(numbers, version)}
    if kind == "sync":
        return dict.fromkeys(numbers, version)
    if kind == "remove":
        return {number: old for number, old in state.items() if number not in set(numbers)}
    return dict(state)


def check_log(log: Path, found: dict[int, int], before: dict[int, int]) -> None:
    """Check that a state has all that was acknowledged since another, and of an interrupted change any part."""
    state, lines = before, log.read_text().splitlines()
    for line in lines:
        word, kind, version, *numbers = line.split()
        if word == "begin":
            after = changed(state, kind, list(map(int, numbers)), int(version))
        else:
            state = after
    interrupted = bool(lines) and lines[-1].startswith("begin")
    for number in range(NUMBERS):
        allowed = {state.get(number), after.get(number)} if interrupted else {state.get(number)}
        assert found.get(number) in allowed, (number, found.get(number), allowed, lines[-1])


def work(folder: Path, log: Path, seed: int) -> None:
    """Change an index at random until the process is killed."""
    chance, version = random.Random(seed), seed * 1_000_000
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with Index.open(folder, EMBEDDER) as index:
        print("ready", flush=True)
        while True:
            kind = chance.choice(["add", "add", "remove", "sync", "compact"])
            numbers = chance.sample(range(NUMBERS), chance.randint(1, 8 if kind != "sync" else NUMBERS))
            version += 1
            rest = f"{kind} {version} {' '.join(map(str, numbers))}\n"
            os.write(number, f"begin {rest}".encode())
            change(index, kind, numbers, version)
            os.write(number, f"done {rest}".encode())


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
