"""Build of a cache of reduced images, which resumes after an interruption."""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from ccpml.data.images import cache_index
from ccpml.data.images.cache_index import CacheError, Entry, Index, entry_from, file_state, index_key
from ccpml.data.images.packed import sum64
from ccpml.data.images.read import MAX_LISTED, BadImage, BadImageError, BadImagesError, read_header, read_image
from ccpml.data.threads import in_threads
from ccpml.files import require_space, write_text
from ccpml.progress import progress_bar

__all__ = ["build"]

_JOURNAL: Final = "journal.jsonl"
_COMMIT_INTERVAL: Final = 256  # images that a killed build may have to pack again


class _Job(NamedTuple):
    """An image to pack: its row in the table, its file, and its planned entry in the index."""

    row: int
    path: Path
    entry: Entry


def build(paths: Sequence[Path], folder: Path, home: Path, side: int, rotate: bool, progress: bool) -> None:
    """Build the cache of the images of a folder in ``home``, or complete or repair an existing one.

    Raises:
        BadImagesError: If images cannot be read.
        ValueError: If the disk is full, or pixels read back differ from those written.
        OSError: If the cache cannot be written.
    """
    partial = home.with_name(f"{home.name}.partial")
    recorded = _recorded(home if home.is_dir() else partial, side)
    jobs, bad = _plan(paths, folder, side, recorded, rotate, progress)
    plan = Index(side, [job.entry for job in jobs])
    if home.is_dir():
        if bad:
            raise _bad_images(bad, len(paths), home)
        if _is_complete(home, plan, progress):
            (home / _JOURNAL).unlink(missing_ok=True)
            return
        recorded = _retire(home, partial, plan)
    planned = set(plan.entries)
    done = {entry.plan: entry for entry in recorded if entry.plan in planned}
    pack = _prepare(partial, plan, done.values())
    for _ in range(2):  # pixels that read back differently are written once more
        bad += _pack([job for job in jobs if job.entry not in done], pack, done, side, rotate, progress)
        if bad:
            raise _bad_images(bad, len(paths), home)
        for entry in _damaged(pack, [done[entry] for entry in plan.entries], progress):
            del done[entry.plan]
        if len(done) == len(planned):
            break
    else:
        raise ValueError(f"{pack}: pixels read back differ from those written; check the disk")
    cache_index.write_index(partial, Index(side, [done[entry] for entry in plan.entries]))
    partial.replace(home)
    (home / _JOURNAL).unlink()


def _retire(home: Path, partial: Path, plan: Index) -> list[Entry]:
    """Remove an outdated or damaged cache from use, and return the entries that can be kept.

    A packed file that other processes may be reading is repaired, but never filled with other pixels.
    """
    if (home / plan.pack_name).is_file():
        shutil.rmtree(partial, ignore_errors=True)
        home.replace(partial)
    else:
        shutil.rmtree(home)
    return _recorded(partial, plan.side)


def _plan(
    paths: Sequence[Path], folder: Path, side: int, recorded: Iterable[Entry], rotate: bool, progress: bool
) -> tuple[list[_Job], list[BadImage]]:
    """Plan the position of each image from the headers of the files; recorded files are not opened again."""
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
            header = read_header(path, rotate)
        except BadImageError as error:
            return error.reason
        return Entry(*key, 0, *_scaled(header.height, header.width, side), 1 if header.gray else 3)

    jobs, bad, end = list[_Job](), list[BadImage](), 0
    found_entries = progress_bar(len(paths), "image", "reading headers", over=in_threads(look, paths), shown=progress)
    for row, (path, found) in enumerate(found_entries):
        if isinstance(found, str):
            bad.append(BadImage(row, str(path), found))
        else:
            jobs.append(_Job(row, path, found._replace(offset=end)))
            end += found.padded
    return jobs, bad


def _pack(
    jobs: Sequence[_Job], pack: Path, done: dict[Entry, Entry], side: int, rotate: bool, progress: bool
) -> list[BadImage]:
    """Write the pixels of images, and record in ``done`` and in the journal what is on disk."""
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
            for job, result in in_threads(lambda job: _pixels(job, side, rotate), jobs):
                if isinstance(result, str):
                    bad.append(BadImage(job.row, str(job.path), result))
                else:
                    file.seek(job.entry.offset)
                    file.write(result)
                    fresh.append(job.entry._replace(crc32=zlib.crc32(result), sum64=sum64(result)))
                    if len(fresh) == _COMMIT_INTERVAL:
                        commit()
                bar.update()
        finally:
            commit()
    return bad


def _pixels(job: _Job, side: int, rotate: bool) -> bytes | str:
    """Return the pixels of an image at the planned size, or the reason why it cannot be read."""
    entry = job.entry
    try:
        pixels = read_image(job.path, entry.channels, min_size=2 * side, rotate=rotate)
    except BadImageError as error:
        return error.reason
    height, width = pixels.shape[:2]
    if _scaled(height, width, side) != (entry.height, entry.width) and min(height, width) < 2 * side:
        return "its size differs from its header"
    picture = Image.fromarray(pixels[:, :, 0] if entry.channels == 1 else pixels)
    if picture.size != (entry.width, entry.height):
        picture = picture.resize((entry.width, entry.height), Image.Resampling.BILINEAR)
    return picture.tobytes()


def _scaled(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size at which an image is packed."""
    shorter = min(height, width)
    if shorter <= side:
        return height, width
    return round(height * side / shorter), round(width * side / shorter)


def _recorded(folder: Path, side: int) -> list[Entry]:
    """Return the entries of a journal or an index, as far as it can be read."""
    entries = list[Entry]()
    with suppress(OSError, ValueError):
        head, *lines = (folder / _JOURNAL).read_bytes().splitlines()
        if json.loads(head) == [cache_index.VERSION, side]:
            for line in lines:
                with suppress(ValueError):  # a line that was cut off
                    entries.append(entry_from(json.loads(line)))
            return entries
    with suppress(CacheError):
        index = cache_index.load_index(folder)
        return list(index.entries) if index.side == side else []
    return []


def _prepare(partial: Path, plan: Index, done: Iterable[Entry]) -> Path:
    """Prepare the folder of a build: the packed file at its full size, and the journal."""
    partial.mkdir(exist_ok=True)
    pack = partial / plan.pack_name
    for old in sorted(partial.glob("pixels-*.bin")):
        if not pack.exists():
            old.replace(pack)
        elif old != pack:
            old.unlink()
    pack.touch()
    used = getattr(pack.stat(), "st_blocks", 0) * 512
    require_space(partial, max(0, plan.size - used), "the cache")
    lines = [json.dumps(line) for line in ([cache_index.VERSION, plan.side], *done)]
    write_text(partial / _JOURNAL, "\n".join(lines) + "\n")
    (partial / "index.json").unlink(missing_ok=True)
    os.truncate(pack, plan.size)
    return pack


def _is_complete(home: Path, plan: Index, progress: bool) -> bool:
    """Whether a cache matches the plan and is undamaged."""
    try:
        index = cache_index.read_index(home)
    except CacheError:
        return False
    return index.pack_name == plan.pack_name and not _damaged(home / index.pack_name, index.entries, progress)


def _damaged(pack: Path, entries: Sequence[Entry], progress: bool) -> list[Entry]:
    """Read all pixels, and return the entries whose checksum differs."""
    found = []
    with pack.open("rb") as file:
        for entry in progress_bar(len(entries), "image", "verifying", over=entries, shown=progress):
            file.seek(entry.offset)
            pixels = file.read(entry.length)
            if (zlib.crc32(pixels), sum64(pixels)) != (entry.crc32, entry.sum64):
                found.append(entry)
    return found


def _bad_images(bad: Sequence[BadImage], total: int, home: Path) -> BadImagesError:
    lines = [f"{image.name}: {image.reason}" for image in sorted(bad)]
    listed_in = home.with_name(f"{home.name}-unreadable.txt") if len(bad) > MAX_LISTED else None
    if listed_in is not None:
        write_text(listed_in, "\n".join([*lines, ""]))
    advice = "cache not built; repair or remove these images, then run again"
    return BadImagesError.of(sorted(bad), total, advice, listed_in)
