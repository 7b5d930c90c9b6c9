"""Bring an index up to date with a folder, a CSV file or other data: only what is new or changed is embedded."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ccpml.artifacts import dead_link, plain_path
from ccpml.data.images.formats import unread_suffixes
from ccpml.data.images.opening import is_here
from ccpml.data.images.read import BadImageError
from ccpml.numbers import counted
from ccpml.serving.collect import Pictures, is_lost
from ccpml.serving.embedding import Batch, embed_pictures
from ccpml.serving.errors import SourceConflictError
from ccpml.serving.index_writer import IndexWriter, Known
from ccpml.serving.items import Picture
from ccpml.serving.pictures import state_of
from ccpml.serving.storage.schema import metadata_text
from ccpml.serving.storage.transaction import Facts

__all__ = ["Synced", "sync"]

_KINDS = "folder:", "csv:", "glob:"  # of sources


@dataclass
class Synced:
    """What a synchronization has done: number of pictures of each kind, and the images that cannot be read.

    ``relabeled`` are those of the unchanged ones whose label or metadata are others now. ``kept`` are those that cannot
    be read now, but are there, or are on a disk that is not. ``lost`` has the number of items that stay in the index
    although their source is no longer there, by source.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    relabeled: int = 0
    mended: int = 0
    kept: int = 0
    skipped: list[BadImageError] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in ("added", "changed", "renamed", "removed", "unchanged")}
        some = {"mended": self.mended, "kept, which cannot be read now": self.kept}
        counts |= {name: count for name, count in some.items() if count}
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        return f"{text}; labels or metadata of {self.relabeled:,} are others now" if self.relabeled else text


def sync(writer: IndexWriter, found: Pictures, progress: Callable[[int], Any] | None = None) -> Synced:
    """Bring the items of a source up to date; see `Index.sync`."""
    return _Sync(writer, found, progress or (lambda _: None)).run()


class _Sync:
    """One synchronization. Each transaction leaves an index of which the next synchronization does the rest."""

    def __init__(self, writer: IndexWriter, found: Pictures, progress: Callable[[int], Any]) -> None:
        self.writer, self.source, self.progress = writer, found.source, progress
        self.result, self.is_lost = Synced(), cache(is_lost)
        self.listed = dict[str, tuple[Picture, Facts]]()  # by path
        self.unavailable = set[str]()  # paths of files that exist but cannot be looked at now
        for picture in found:
            self._look_at(picture)
        self.plain = list[tuple[int, Facts]]()  # items whose path or source is written otherwise now
        self.damaged = dict[str, int]()  # ids of items that are not what was written, by path
        self.lost_items = dict[str, list[Known]]()  # of other sources that are no longer there, by SHA-256
        self.known = self._read_known()
        self._keep_unread()
        self.vanished = dict[str, list[int]]()  # ids of items of this source whose files are gone, by SHA-256
        for path, known in self.known.items():
            if path not in self.listed and path not in self.unavailable:
                self.vanished.setdefault(known.content_hash, []).append(known.id)
        gone = self.damaged.keys() - self.listed.keys() - self.unavailable
        self.lost = [self.damaged[path] for path in gone]

    def run(self) -> Synced:
        """Do it."""
        self._check_other_sources()
        self.writer.update(self.plain)
        twins = self._embed(self._update_unchanged(), self._is_known)
        self._embed(twins, None)
        self.result.removed += self.writer.remove(key for ids in (*self.vanished.values(), self.lost) for key in ids)
        self.result.kept = len(self.unavailable & (self.known.keys() | self.damaged.keys()))
        return self.result

    def _look_at(self, picture: Picture) -> None:
        try:
            path, size, mtime_ns = state_of(picture)
        except BadImageError as error:
            self._skip(picture, error)
            self.progress(1)
        else:
            metadata = metadata_text(picture.metadata)
            self.listed[path] = picture, Facts(path, size, mtime_ns, picture.label, metadata, self.source)

    def _skip(self, picture: Picture, error: BadImageError) -> None:
        """List an image that cannot be read; its item stays if the file, or its whole folder, is unavailable now."""
        self.result.skipped.append(error)
        cause, path = error.__cause__, picture.file
        if not is_here(error.reason):
            self.unavailable.add(str(path))
        if not isinstance(cause, OSError) or cause.errno is None:  # Pillow's have no number
            return
        # As on a disk that was unplugged meanwhile, or what git-annex has dropped.
        if cause.errno != errno.ENOENT or not path.parent.exists() or path.is_symlink():
            self.unavailable.add(str(path))

    def _keep_unread(self) -> None:
        """List pictures that are there, but not among a folder's images: what nothing here reads, and dead links."""
        if self.source.startswith("csv:"):  # a table lists them all
            return
        commands = unread_suffixes()
        for path in sorted(self.known.keys() - self.listed.keys()):
            reason = commands.get(Path(path).suffix.lower(), "") if os.path.lexists(path) else ""
            if not os.path.exists(path) and (link := dead_link(Path(path))):  # noqa: PTH110 -- of many texts
                reason = f"{'it' if str(link) == path else link} links to nothing"
            if reason:
                self.unavailable.add(path)
                self.result.skipped.append(BadImageError(f"stays, as it cannot be read here: {reason}", path))

    def _read_known(self) -> dict[str, Known]:
        """Return the items that are of this source or whose path is listed, by path; note those that are damaged.

        Of other sources, items whose source and file are gone are noted: their contents may be found here.
        """
        found, damaged = dict[str, Known](), self.writer.damaged()
        for known in self.writer.known():
            facts = known.facts._replace(path=_plain(known.facts.path), source=_plain(known.facts.source))
            if facts.path in self.listed or facts.source == self.source:
                if facts != known.facts:  # of an earlier version
                    self.plain.append((known.id, facts))
                if known.id in damaged:
                    self.damaged[facts.path] = known.id
                else:
                    found[facts.path] = known._replace(facts=facts)
            elif self.is_lost(known.facts.source):
                self.result.lost[known.facts.source] += 1
                if known.id not in damaged and not os.path.lexists(known.facts.path):
                    self.lost_items.setdefault(known.content_hash, []).append(known)
        return found

    def _check_other_sources(self) -> None:
        """Check that no label and no metadata that another source has given would be lost: they cannot be made again.

        Raises:
            SourceConflictError: If some would be.
        """
        pairs = [(known.facts, self.listed[path][1]) for path, known in self.known.items() if path in self.listed]
        pairs = [(own, new) for own, new in pairs if own.source != self.source]
        losing = [(own, lost) for own, new in pairs if (lost := _lost_facts(own, new, self.is_lost(own.source)))]
        if losing:
            own, lost = losing[0]
            count = counted(sum(other.source == own.source for other, _ in losing), "picture")
            came, first = f"came into the index from {own.source}", "bring that source up to date instead, or remove it"
            if not own.source:
                came, first = "were added to the index one by one", "remove them"
            why = f"{lost} of {own.path} would be lost"
            raise SourceConflictError(f"{self.source}: {count} of it {came}, and {why}; {first} from the index first")

    def _update_unchanged(self) -> list[Picture]:
        """Write labels and metadata of files that did not change; return the other pictures."""
        new, changes = list[Picture](), list[tuple[int, Facts]]()
        for path, (picture, facts) in self.listed.items():
            known = self.known.get(path)
            if known is None or (known.facts.size, known.facts.mtime_ns) != (facts.size, facts.mtime_ns):
                new.append(picture)
                continue
            self.result.unchanged += 1
            self.progress(1)
            if known.facts != facts:
                changes.append((known.id, facts))
                self.result.relabeled += _is_relabeled(known.facts, facts)
        self.writer.update(changes)
        return new

    def _is_known(self, path: str, content_hash: str) -> bool:
        """Whether the contents of a file have a vector: that of the path, or that of a file that is gone."""
        known = self.known.get(path)
        is_gone = content_hash in self.vanished or content_hash in self.lost_items
        return is_gone or (known is not None and known.content_hash == content_hash)

    def _embed(self, pictures: list[Picture], is_known: Callable[[str, str], bool] | None) -> list[Picture]:
        """Embed pictures, or move the items that have their contents; return those of which another took the item."""
        twins = list[Picture]()
        with closing(embed_pictures(self.writer.embedder, pictures, is_known)) as batches:
            for batch in batches:
                twins += self._move(batch)
                self._append(batch)
        return twins

    def _move(self, batch: Batch) -> list[Picture]:
        """Write the facts of files that have the contents of an item; return those without an item after all."""
        twins, changes = list[Picture](), list[tuple[int, Facts]]()
        for picture, content, content_hash in batch.known:
            known, ids = self.known.get(content.path), self.vanished.get(content_hash)
            facts = Facts(
                content.path,
                content.size,
                content.mtime_ns,
                picture.label,
                metadata_text(picture.metadata),
                self.source,
            )
            if known is not None and known.content_hash == content_hash:
                changes.append((known.id, facts))
                self.result.unchanged += 1
                self.result.relabeled += _is_relabeled(known.facts, facts)
            elif ids:
                changes.append((ids.pop(), facts))
                self.result.renamed += 1
            elif known is None and (moved := self._take_lost(content_hash, facts)):
                changes.append((moved.id, facts))
                self.result.renamed += 1
                self.result.lost -= Counter([moved.facts.source])
            else:
                twins.append(picture)
        self.writer.update(changes)
        self.progress(len(batch.known) - len(twins))
        return twins

    def _take_lost(self, content_hash: str, facts: Facts) -> Known | None:
        """Return an item with these contents of another source that is gone, if none of its facts are lost."""
        others = self.lost_items.get(content_hash, [])
        found = next((known for known in others if not _lost_facts(known.facts, facts, is_lost=True)), None)
        if found is not None:
            others.remove(found)
        return found

    def _append(self, batch: Batch) -> None:
        """Add what was embedded, and remove items whose files are no images any more."""
        self.writer.append(batch.new, self.source)
        changed = sum(item.path in self.known for item in batch.new)
        mended = sum(item.path in self.damaged for item in batch.new)
        self.result.changed += changed
        self.result.mended += mended
        self.result.added += len(batch.new) - changed - mended
        for picture, error in batch.skipped:
            self._skip(picture, error)
        paths = {str(picture.file) for picture, _ in batch.skipped} - self.unavailable
        ids = {path: known.id for path, known in self.known.items()} | self.damaged
        self.result.removed += self.writer.remove(ids[path] for path in paths & ids.keys())
        self.progress(len(batch.new) + len(batch.skipped))


def _plain(name: str) -> str:
    """Return a path or source without ``..`` and ``//``, which earlier versions have kept; see `plain_path`."""
    kind, colon, path = name.partition(":") if name.startswith(_KINDS) else ("", "", name)
    return f"{kind}{colon}{plain_path(Path(path))}" if "/../" in path or path.startswith("//") else name


def _is_relabeled(own: Facts, new: Facts) -> bool:
    return (own.label, own.metadata) != (new.label, new.metadata)


def _lost_facts(own: Facts, new: Facts, is_lost: bool) -> str:
    """Return which label or metadata of an item would be lost to those that another source has; empty if none.

    What a table gives, or a caller of `Index.add`, is written by hand, and no other kind of source replaces it. A table
    whose source is gone is an earlier version of the new one.
    """
    by_hand, replaces_by_hand = (facts.source.startswith("csv:") for facts in (own, new))
    if replaces_by_hand and is_lost:
        return ""
    is_other = own.label != new.label if (by_hand or not own.source) and not replaces_by_hand else not new.label
    if own.label and is_other:
        return f"the label {own.label!r}"
    missing = json.loads(own.metadata).keys() - json.loads(new.metadata).keys()
    return f"the metadata {sorted(missing)[0]!r}" if missing else ""
