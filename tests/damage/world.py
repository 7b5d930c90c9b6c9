"""Every file and folder that commands leave, in several states of damage, before every verb that may read it.

The files are those on disk, so that a new one is covered when it appears. A verb that meets a damaged file either has
the result that it has without damage, or names the file in a sentence and changes nothing else.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

from filelock import FileLock

from ccpml.benchmark import cell_process, runner
from ccpml.benchmark.protocol import Cell
from ccpml.cli import main
from ccpml.files import write_json, write_text
from ccpml.report.style import Picture
from tests.damage.commands import MADE, MADE_MORE, MAKERS, ask, commands, load, output_of
from tests.damage.judge import LOCKS, Outcome, judge
from tests.damage.states import FILE_STATES, FOLDER_STATES, bound_by_permissions, damage
from tests.toy import toy_folder

OPTIONAL: Final = re.compile(
    r"^run/certificate\.json (missing|dangling) "  # a run without a certificate was not calibrated
    r"|^run/scores\.json (missing|dangling) resume-finished"  # the run is unfinished without, and is finished
    r"|^run/experiment\.yaml (cut|flipped|digit|swapped) train-config"  # a file of settings has no digest
    r"|^small/scan\.json (missing|dangling) "  # an index without it is scanned in rows of float32
    r"|^images/\.ccpml-cache/(folder/)? (missing|dangling|empty) (train|check)"  # without a cache, files are read
    r"|^images/group.* swapped "  # contents of images are not compared
    r"|^images/(group.*)? \w+ serve"  # an explanation is of the kept thumbnail, and says so in its field source
    r"|^run/checkpoints/best\.safetensors swapped train-weights"  # other weights are as good
    r"|^\w+/tensorboard/\S+ dangling "  # TensorBoard writes through the link
    r"|^benchmark/cells/([^/]+/){0,2} (missing|empty|dangling) "  # cells that are not there are trained
    r"|^study/ (missing|empty) tune"  # a search begins where there is none
    r"|^study/trial-0000/ (missing|empty|dangling) "  # the study has the result of a finished trial
    r"|^\w+/rows\.\d+\.f32 (flipped|swapped) (search|serve|sync)"  # checksums of rows are compared by index --verify
)
"""Cases that are no damage, or damage that a verb does not look for: 'file state verb'."""


class Case(NamedTuple):
    """A file, or a folder, whose name ends with a slash; what happens to it; and the verb that comes then."""

    name: str
    state: str
    verb: str

    def __str__(self) -> str:
        return " ".join(self)


@dataclass
class World:
    """Finished runs, a run without scores, a benchmark and a study on cached images, and what is made of a run."""

    path: Path
    verbs: dict[str, list[str]]
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    times: dict[str, int] = field(default_factory=dict)
    known: dict[str, tuple[tuple[int, ...], bytes]] = field(default_factory=dict)
    given: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outcomes: "dict[str, Whole]" = field(default_factory=dict)
    apart: bool = False
    """Whether verbs run in forks of this process, which must not have computed anything yet."""

    @classmethod
    def build(cls, path: Path, more: bool = False, apart: bool = False) -> "World":
        """Make everything that verbs read, ``more`` or less of it."""
        world = cls(path, commands(path), apart=apart)
        toy_folder(path / "images", per_class=4)
        for verb in ("cache", "check", "train", "tune", "benchmark"):
            world._make(verb)
        (path / "out").rename(path / "run")
        shutil.copytree(path / "run", path / "stopped")
        (path / "stopped" / "scores.json").unlink()
        world._make("train-other")
        world.call("calibrate")  # 1, as so few classes promise nothing, with a certificate that says so
        assert (path / "run" / "certificate.json").is_file()
        for verb, name in {**MADE, **(MADE_MORE if more else {})}.items():
            world._make(verb)
            (path / output_of(verb)).rename(path / name)
            if (card := path / f"{output_of(verb)}.md").exists():
                card.rename(path / f"{name}.md")
        for verb in ("search-approximate", *(["search-small", "search-half"] if more else [])):
            world._make(verb)  # keeps its graph, and its rows
        (path / "index" / "unreadable.txt").write_text("a.png: not an image\n")  # is left if there are many
        for name in MADE_MORE.values() if not more else ():
            world.verbs = {verb: command for verb, command in world.verbs.items() if str(path / name) not in command}
        world._keep()
        return world

    @classmethod
    def open(cls, path: Path, apart: bool = False) -> "World":
        """Return what `build` has made in a folder."""
        world = cls(path, commands(path), apart=apart)
        world._keep()
        return world

    def _make(self, verb: str) -> None:
        code, printed = self.call(verb)
        assert code == 0, (verb, printed)

    def _keep(self) -> None:
        """Keep the state that `restore` brings back."""
        self.files = self.content()
        self.folders = {self._name(path) for path in self.path.rglob("*") if path.is_dir()}
        self.times = {name: (self.path / name).stat().st_mtime_ns for name in self.files}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def content(self) -> dict[str, bytes]:
        """Return all files by their names; those whose inode, size and time are known are not read again."""
        found = dict[str, tuple[tuple[int, ...], bytes]]()
        for file in self.path.rglob("*"):
            if file.is_file():
                name, status = self._name(file), file.stat()
                state = (status.st_ino, status.st_size, status.st_mtime_ns)
                known = self.known.get(name)
                found[name] = known if known and known[0] == state else (state, file.read_bytes())
        self.known = found
        return {name: content for name, (_, content) in found.items()}

    def snapshot(self) -> dict[str, bytes]:
        """Return all files by their names, and all folders, by names that end with a slash."""
        folders = {f"{self._name(path)}/": b"" for path in self.path.rglob("*") if path.is_dir()}
        return {**self.content(), **folders}

    def restore(self) -> None:
        """Bring back files and folders as they were, with their times, which caches compare."""
        for path in sorted(self.path.rglob("*"), reverse=True):
            name = self._name(path)
            if path.is_symlink() or (path.is_file() and name not in self.files):
                path.unlink()
            elif path.is_dir() and name not in self.folders:
                path.rmdir()
        for name in sorted(self.folders):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        now = self.content()
        for name, whole in self.files.items():
            file = self.path / name
            if now.get(name) != whole:
                file.write_bytes(whole)
            if file.stat().st_mtime_ns != self.times[name]:
                os.utime(file, ns=(self.times[name], self.times[name]))

    def call(self, verb: str) -> tuple[int, str]:
        """Run a verb, and cells of a benchmark with it; return its exit code and what it prints."""
        return run_apart(lambda: self.run(verb)) if self.apart else self.run(verb)

    def run(self, verb: str) -> tuple[int, str]:
        """Run a verb in this process."""
        for module in [module for name, module in sys.modules.items() if name.startswith("ccpml.data.")]:
            for member in vars(module).values():
                getattr(member, "cache_clear", lambda: None)()  # each verb has a process of its own
        output = io.StringIO()
        drawn = classmethod(lambda cls, *arguments: Picture(arguments[-2], arguments[-1], b"a picture", 1, 1))
        with (
            mock.patch.object(runner, "_start", _start),
            mock.patch("ccpml.runs.scoring._commit", return_value="0" * 40),  # later commits are compared with it
            mock.patch.object(Picture, "of", drawn),  # drawing takes most of the time
            mock.patch.object(Picture, "in_layouts", drawn),
            mock.patch("ccpml.serving.service.server.serve", ask),
            mock.patch("ccpml.serving.search.approximate.MIN_ROWS", 10),
            mock.patch("ccpml.serving.index.uuid.uuid4", return_value=uuid.UUID(int=0)),  # the same in each index
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            command = self.verbs[verb]
            code = load(command[1]) if command[0] == "load" else main(command)
        return code, output.getvalue()

    def whole(self, verb: str) -> "Whole":
        """Return what a verb does that meets no damage."""
        if verb not in self.outcomes:
            before = self.snapshot()
            code, text = self.call(verb)
            after = self.snapshot()
            self.outcomes[verb] = Whole(Outcome.of(code, text, before, after, after), after)
            self.restore()
        return self.outcomes[verb]

    def cases(
        self, reads: "Callable[[Case], bool] | None" = None, alike: int = 2, chance: random.Random | None = None
    ) -> Iterator[Case]:
        """Yield files and folders with states and verbs.

        Args:
            reads: Whether the verb of a case looks at the file in a way in which it can see the state; by default,
                whether the file is below a path in the command of the verb.
            alike: Number of files that are taken of those whose names differ by digits only, for each state and verb.
            chance: Which.
        """
        reads, chance = reads or self.is_given, chance or random.Random(0)
        groups = dict[str, list[str]]()
        for name in sorted([*self.files, *(f"{folder}/" for folder in self.folders)]):
            if not LOCKS.search(name):
                groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
        for names in groups.values():
            for state in FOLDER_STATES if names[0].endswith("/") else FILE_STATES:
                for verb in (verb for verb in self.verbs if verb not in MAKERS):
                    found = [case for case in (Case(name, state, verb) for name in names) if reads(case)]
                    found = [case for case in found if not OPTIONAL.match(str(case))]
                    yield from sorted(chance.sample(found, min(alike, len(found))))

    def is_given(self, case: Case) -> bool:
        """Whether a file or folder is at or below a path that the command of a verb names, or one of the images."""
        if case.verb not in self.given:
            words = [word.removeprefix("folder:").removeprefix("csv:") for word in self.verbs[case.verb]]
            top = f"{self.path.as_posix()}/"
            self.given[case.verb] = tuple(f"{word}/"[len(top) :] for word in words if word.startswith(top))
        return f"{case.name}/".startswith(self.given[case.verb])

    def check(self, case: Case, seed: int = 0) -> str:
        """Damage a file and run a verb; return what is wrong, empty if nothing is; restore the files."""
        outcome = self.outcome(case, seed)
        return judge(*case, self.whole(case.verb).outcome, outcome) if outcome else ""

    def outcome(self, case: Case, seed: int = 0) -> Outcome | None:
        """Return what a verb does after damage, None if the file has no such state; restore the files."""
        whole, path = self.whole(case.verb), self.path / case.name
        mode = path.stat().st_mode
        try:
            if not damage(path, case.state, self.files, random.Random(f"{seed} {case.name} {case.state}")):
                return None
            before = self.snapshot()
            try:
                code, text = self._bound(case.verb)
            except BaseException as error:
                code, text = -1, f"{type(error).__name__}: {error}"
            return Outcome.of(code, text, before, self.snapshot(), whole.after)
        finally:
            if path.exists() and not path.is_symlink():
                path.chmod(mode)
            self.restore()

    def _bound(self, verb: str) -> tuple[int, str]:
        with bound_by_permissions():
            return self.call(verb)


class Whole(NamedTuple):
    """What a verb does that meets no damage, and the files that it leaves."""

    outcome: Outcome
    after: dict[str, bytes]


def run_apart(function: Callable[[], tuple[int, str]], limit: int = 180) -> tuple[int, str]:
    """Run a function in a fork of this process; return what it returns, or the signal that has ended the fork.

    Args:
        function: The function, which returns an exit code and a text.
        limit: Seconds after which it counts as one that hangs.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stream:
        pid = os.fork()
        if pid == 0:
            signal.alarm(limit)
            try:
                code, text = function()
            except BaseException as error:
                code, text = -1, f"{type(error).__name__}: {error}"
            json.dump([code, text], stream)
            stream.flush()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            return -os.WTERMSIG(status), f"{signal.Signals(os.WTERMSIG(status)).name} after {limit} s at most"
        stream.seek(0)
        code, text = json.load(stream)
        return code, text


def _start(cell: Cell, device: str, data_digest: str, lock: FileLock) -> runner.RunningCell:
    """Train a cell in this process, as its own would."""
    settings = {**cell.settings.as_dict(), "device": device}
    write_json(cell.settings_file, {"settings": settings, "chosen": cell.chosen, "data_digest": data_digest})
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        code = cell_process._train(cell.settings_file, cell.path)
    write_text(cell.log_file, log.getvalue())
    ended: Any = mock.Mock(returncode=code, poll=lambda: code)
    return runner.RunningCell(cell, device, ended, time.monotonic(), lock)
