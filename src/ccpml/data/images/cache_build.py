"""Building a cache of small images: so that it can be stopped anywhere, and goes on from there."""

import json
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from PIL import Image

from ccpml.data.images.cache_index import (
    VERSION,
    Entry,
    Index,
    entry_from,
    file_state,
    index_key,
    load_index,
    read_index,
    write_index,
)
from ccpml.data.images.read import BadImageError, read_header, read_image
from ccpml.data.upkeep.check import BadImage, BadImagesError
from ccpml.data.upkeep.disk import require_space
from ccpml.progress import progress_bar

__all__ = ["build", "damaged"]

_JOURNAL: Final = "journal.jsonl"
_COMMIT: Final = 256  # images between two states on the disk that a killed build goes on from
_SHOWN: Final = 10

T = TypeVar("T")
R = TypeVar("R")


class _Job(NamedTuple):
    """An image to pack: its row in the table, its file and where its pixels go."""

    row: int
    path: Path
    entry: Entry


def build(paths: Sequence[Path], folder: Path, home: Path, name: str, side: int, progress: bool) -> None:
    """Make a cache, from whatever is there of it.

    Args:
        paths: The images.
        folder: What their paths are relative to.
        home: The cache's folder, in an existing one.
        name: The set as named on the command line.
        side: Length of the shorter side.
        progress: Show progress bars on standard error.

    Raises:
        BadImagesError: If images cannot be read.
        ValueError: If the disk has no room, or does not give back what was written.
        OSError: If it cannot be written to.
    """
    partial = home.with_name(f"{home.name}.partial")
    recorded = _recorded(home if home.is_dir() else partial, side)
    jobs, bad = _plan(paths, folder, side, recorded, progress)
    plan = Index(side, [job.entry for job in jobs])
    if home.is_dir():
        if bad:
            raise _bad_images(bad, len(paths), name)
        if _is_complete(home, plan, progress):
            (home / _JOURNAL).unlink(missing_ok=True)
            return
        recorded = _retire(home, partial, plan)
    planned = set(plan.entries)
    done = {entry.plan: entry for entry in recorded if entry.plan in planned}
    pack = _prepare(partial, plan, done.values(), name)
    for _ in range(2):  # what does not read back as it was written is written once more
        bad += _pack([job for job in jobs if job.entry not in done], pack, done, side, progress)
        if bad:
            raise _bad_images(bad, len(paths), name)
        for entry in damaged(pack, [done[entry] for entry in plan.entries], progress):
            del done[entry.plan]
        if len(done) == len(planned):
            break
    else:
        raise ValueError(f"{pack}: pixels do not read back as they were written; check the disk")
    write_index(partial, Index(side, [done[entry] for entry in plan.entries]))
    partial.replace(home)
    (home / _JOURNAL).unlink()


def _retire(home: Path, partial: Path, plan: Index) -> list[Entry]:
    """Take a cache that does not fit out of use, and give what can be kept of it.

    A packed file that others may be reading is only ever mended, never filled with other pixels.
    """
    if (home / plan.pack_name).is_file():
        shutil.rmtree(partial, ignore_errors=True)
        home.replace(partial)
    else:
        shutil.rmtree(home)
    return _recorded(partial, plan.side)


def _plan(
    paths: Sequence[Path], folder: Path, side: int, recorded: Iterable[Entry], progress: bool
) -> tuple[list[_Job], list[BadImage]]:
    """Say where each image goes, from the headers of the files; those recorded are not opened again."""
    known = {entry[:3]: entry[4:7] for entry in recorded}

    def look(path: Path) -> Entry | str:
        state = file_state(path)
        if state is None:
            return "cannot be opened"
        key = (index_key(path, folder), *state)
        if key in known:
            height, width, channels = known[key]
            return Entry(*key, 0, height, width, channels)
        try:
            header = read_header(path)
        except BadImageError as error:
            return error.reason
        return Entry(*key, 0, *_scaled(header.height, header.width, side), 1 if header.grey else 3)

    jobs, bad, end = list[_Job](), list[BadImage](), 0
    looks = progress_bar(len(paths), "image", "looking at images", over=_in_threads(look, paths), shown=progress)
    for row, (path, found) in enumerate(looks):
        if isinstance(found, str):
            bad.append(BadImage(row, str(path), found))
        else:
            jobs.append(_Job(row, path, found._replace(offset=end)))
            end += found.length
    return jobs, bad


def _pack(jobs: Sequence[_Job], pack: Path, done: dict[Entry, Entry], side: int, progress: bool) -> list[BadImage]:
    """Write the pixels of images, and record in ``done`` and the journal what is on the disk."""
    bad, fresh = list[BadImage](), list[Entry]()
    with (
        pack.open("r+b") as file,
        (pack.parent / _JOURNAL).open("a", encoding="ascii") as journal,
        progress_bar(len(done) + len(jobs), "image", "packing images", initial=len(done), shown=progress) as bar,
    ):

        def commit() -> None:
            file.flush()
            os.fsync(file.fileno())
            journal.writelines(f"{json.dumps(entry)}\n" for entry in fresh)
            journal.flush()
            done.update({entry.plan: entry for entry in fresh})
            fresh.clear()

        try:
            for job, result in _in_threads(lambda job: _pixels(job, side), jobs):
                if isinstance(result, str):
                    bad.append(BadImage(job.row, str(job.path), result))
                else:
                    file.seek(job.entry.offset)
                    file.write(result)
                    fresh.append(job.entry._replace(crc32=zlib.crc32(result)))
                    if len(fresh) == _COMMIT:
                        commit()
                bar.update()
        finally:
            commit()
    return bad


def _pixels(job: _Job, side: int) -> bytes | str:
    """Give an image's pixels at the planned size, or say why there are none."""
    entry = job.entry
    try:
        pixels = read_image(job.path, entry.channels, min_size=2 * side)
    except BadImageError as error:
        return error.reason
    height, width = pixels.shape[:2]
    if _scaled(height, width, side) != (entry.height, entry.width) and min(height, width) < 2 * side:
        return "its size is not what its header says"
    picture = Image.fromarray(pixels[:, :, 0] if entry.channels == 1 else pixels)
    if picture.size != (entry.width, entry.height):
        picture = picture.resize((entry.width, entry.height), Image.Resampling.BILINEAR)
    return picture.tobytes()


def _scaled(height: int, width: int, side: int) -> tuple[int, int]:
    """Give the size at which an image is packed."""
    shorter = min(height, width)
    if shorter <= side:
        return height, width
    return round(height * side / shorter), round(width * side / shorter)


def _recorded(folder: Path, side: int) -> list[Entry]:
    """Give the images that a journal or an index records, as far as it can be read."""
    try:
        head, *lines = (folder / _JOURNAL).read_bytes().splitlines()
        if json.loads(head) == [VERSION, side]:
            return [entry for entry in map(_entry_of_line, lines) if entry is not None]
    except (OSError, ValueError):
        pass
    try:
        index = load_index(folder)
    except ValueError:
        return []
    return list(index.entries) if index.side == side else []


def _entry_of_line(line: bytes) -> Entry | None:
    try:
        return entry_from(json.loads(line))
    except ValueError:  # cut off when the build was killed
        return None


def _prepare(partial: Path, plan: Index, done: Iterable[Entry], name: str) -> Path:
    """Lay out the folder of a build: the packed file at its full length, and a journal of what is in it."""
    partial.mkdir(exist_ok=True)
    pack = partial / plan.pack_name
    for old in sorted(partial.glob("pixels-*.bin")):
        if not pack.exists():
            old.replace(pack)
        elif old != pack:
            old.unlink()
    pack.touch()
    used = getattr(pack.stat(), "st_blocks", 0) * 512
    require_space(partial, max(0, plan.size - used), f"the cache of {name}")
    journal = partial / _JOURNAL
    temporary = partial / f"{_JOURNAL}.tmp"
    lines = [json.dumps(line) for line in ([VERSION, plan.side], *done)]
    temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
    temporary.replace(journal)
    (partial / "index.json").unlink(missing_ok=True)
    os.truncate(pack, plan.size)
    return pack


def _is_complete(home: Path, plan: Index, progress: bool) -> bool:
    """Say whether a cache is that of the plan, and undamaged."""
    try:
        index = read_index(home)
    except ValueError:
        return False
    same = index.side == plan.side and [entry.plan for entry in index.entries] == plan.entries
    return same and not damaged(home / index.pack_name, index.entries, progress)


def damaged(pack: Path, entries: Sequence[Entry], progress: bool) -> list[Entry]:
    """Read all pixels, and give the images whose pixels in the packed file do not have their checksum."""
    found = []
    with pack.open("rb") as file:
        for entry in progress_bar(len(entries), "image", "verifying", over=entries, shown=progress):
            file.seek(entry.offset)
            if zlib.crc32(file.read(entry.length)) != entry.crc32:
                found.append(entry)
    return found


def _bad_images(bad: Sequence[BadImage], total: int, name: str) -> BadImagesError:
    ordered = sorted(bad)
    lines = [
        f"{len(ordered):,} of {total:,} images cannot be packed, and there is no cache without them; repair or remove "
        f"them and run `ccpml data cache {name}` again, which goes on from here:",
        *(f"  {image.name}: {image.reason}" for image in ordered[:_SHOWN]),
    ]
    if len(ordered) > _SHOWN:
        lines.append(f"  and {len(ordered) - _SHOWN:,} more")
    return BadImagesError("\n".join(lines), ordered)


def _in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Do work for each item in a pool of threads, a few items ahead; results come in order."""
    threads = min(16, os.cpu_count() or 1)
    ahead = deque[tuple[T, Future[R]]]()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cache")
    try:
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) >= 4 * threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
