"""Every file that commands leave, in several states of damage, before every verb that may read it.

The files are those on disk, so that a new one is covered when it appears. A verb that meets a damaged file either has
the result that it has without damage, or names the file in a sentence and changes nothing else.
"""

import contextlib
import io
import itertools
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from ccpml.benchmark import cell_process, runner
from ccpml.benchmark.protocol import Cell
from ccpml.cli import main
from ccpml.cli.common.hints import describe
from ccpml.files import write_json, write_text
from ccpml.report.style import Picture
from tests.toy import QUICK, toy_folder

STATES: Final = ("missing", "empty", "cut", "flipped", "foreign", "folder", "newer", "unreadable")
"""States of damage: foreign is the content of another file, newer the format of a later version."""

_NEWER_VERBS: Final = ("clean", "compare", "export", "index", "search", "serve")

FOLDERS: Final = {
    "images/.ccpml-cache": ("check", "cache", "evaluate", "embed", "report", "resume", "benchmark", "tune"),
    "run": ("evaluate", "evaluate-other", "embed", "report", "resume-finished", "calibrate", *_NEWER_VERBS),
    "stopped": ("resume",),
    "benchmark": ("benchmark",),
    "study": ("tune",),
    "other": ("compare",),
    "index": ("search", "search-approximate", "sync", "verify", "compact", "serve"),
    "ensemble": ("search-ensemble", "sync-ensemble", "verify-ensemble", "serve-ensemble"),
    "model.onnx": ("embed-onnx", "index-onnx", "search-onnx", "serve-onnx"),
    "model.safetensors": ("load-file",),
    "hub": ("load-folder",),
    "cleaned": ("train-cleaned",),
}
"""The folders and files of commands, and the verbs that read any of them; no verb reads a program of torch.export."""

OPTIONAL: Final = {("run/certificate.json", "missing")}
"""States that are no damage: a run without a certificate was not calibrated."""

UNSEEN: Final = re.compile(r"^\w+/rows\.\d+\.f32 flipped (search|serve)")
"""Damage that a verb does not look for: checksums of rows are compared by ``index --verify`` and ``--sync``."""

LOCKS: Final = re.compile(r"\.lock$|\.locks/")

WRITTEN: Final = re.compile(
    rf"{LOCKS.pattern}|tfevents|/cells/[^/]+/[^/]+\.(log|json)$|\.ccpml-check/|/study\.db"
    r"|^out/checkpoints/last\.ckpt$|/index\.sqlite-(shm|wal)$"
)
"""Files whose content differs between two runs of a command."""

OUTPUTS: Final = {
    "report": re.compile(r"^run/(report\.html|pictures/)"),
    "calibrate": re.compile(r"^run/(certificate\.json|report\.html|pictures/)"),
    "resume-finished": re.compile(r"^run/(report\.html|pictures/)"),
    "resume": re.compile(r"^stopped/(scores\.json|report\.html|pictures/)"),
    "benchmark": re.compile(r"^benchmark/"),
    "tune": re.compile(r"^study/"),
    "cache": re.compile(r"^images/\.ccpml-cache/"),
}
"""What a verb writes also when it names a damaged file: its tables and pages say so, or it repairs what it finds."""

_denied = set[str]()


def _deny(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _denied and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 -- resolves no links
        if path in _denied:
            raise PermissionError(13, "Permission denied", path)


sys.addaudithook(_deny)  # tests may run as root, whom no mode keeps from reading


@dataclass
class World:
    """A finished run, a run without scores, a benchmark and a study on cached images, in a folder."""

    path: Path
    files: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, tuple[int, str, dict[str, bytes]]] = field(default_factory=dict)
    verbs: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def build(cls, path: Path) -> "World":
        """Make everything that verbs read; cells are trained in this process."""
        world = cls(path)
        toy_folder(path / "images", per_class=4)
        data, quick = f"folder:{path / 'images'}", {**QUICK, "max_steps": 2, "validate_every": 1}
        flags = [f"--{name}={value}" for name, value in quick.items()]
        tried = [flag for flag in flags if not flag.startswith(("--proxies_per_class", "--pool_size"))]
        rows = ["--methods=ccp", "--losses=c2", "--out", str(path / "benchmark")]
        search = ["--search=proxies_per_class=1..3", "--trials=1", "--out", str(path / "study")]
        world.verbs = {
            "cache": ["data", "cache", data, "--side=28"],
            "check": ["data", "check", data],
            "train": ["train", data, *flags, "--run", str(path / "run")],
            "resume-finished": ["train", "--resume", str(path / "run")],
            "resume": ["train", "--resume", str(path / "stopped")],
            "report": ["report", str(path / "run")],
            "calibrate": ["calibrate", str(path / "run"), "--precision=0.5"],
            "evaluate": ["evaluate", str(path / "run")],
            "evaluate-other": ["evaluate", str(path / "run"), data, "--all-classes"],
            "embed": ["embed", str(path / "run"), data, "-o", str(path / "out.npz")],
            "benchmark": ["benchmark", data, *flags, *rows],
            "tune": ["tune", data, *tried, *search],
            **_newer_verbs(path, data, flags),
        }
        for verb in ("cache", "check", "train", "tune", "benchmark"):
            code, printed = world.call(verb)
            assert code == 0, (verb, printed)
        (path / "run").rename(path / "stopped")
        (path / "stopped" / "scores.json").unlink()
        assert world.call("train")[0] == world.call("train-other")[0] == 0
        world.call("calibrate")  # 1, as so few classes promise nothing, with a certificate that says so
        assert (path / "run" / "certificate.json").is_file()
        world._make_newer()
        world.files = world.content()
        return world

    def _make_newer(self) -> None:
        """Make indexes, exported models and a cleaned table, each by its verb, under the name that others read."""
        made = {"index": "index", "export": "model.onnx", "clean": "cleaned", "export-file": "model.safetensors"}
        for verb, name in {**made, "export-hub": "hub", "index-ensemble": "ensemble"}.items():
            code, printed = self.call(verb)
            assert code == 0, (verb, printed)
            (self.path / _written_by(verb)).rename(self.path / name)
            if (card := self.path / f"{_written_by(verb)}.md").exists():
                card.rename(self.path / f"{name}.md")
        code, printed = self.call("search-approximate")  # keeps its graph
        assert code == 0, printed
        (self.path / "index" / "unreadable.txt").write_text("a.png: not an image\n")  # is left if there are many

    def content(self) -> dict[str, bytes]:
        """Return all files by their names."""
        files = (file for file in self.path.rglob("*") if file.is_file())
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files}

    def result(self) -> dict[str, bytes]:
        """Return all files by their names, without what differs between two equal runs."""
        return {name: _without_times(name, content) for name, content in self.content().items()}

    def restore(self) -> None:
        """Bring back the files as they were."""
        for path in sorted(self.path.rglob("*"), reverse=True):
            name = str(path.relative_to(self.path))
            if path.is_dir() and (name in self.files or not any(path.iterdir())):
                path.rmdir()
            elif path.is_file() and name not in self.files:
                path.unlink()
        now = self.content()
        for name, whole in self.files.items():
            if now.get(name) != whole:
                file = self.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(whole)

    def call(self, verb: str) -> tuple[int, str]:
        """Run a verb in this process, cells of a benchmark too; return its exit code and what it prints."""
        output = io.StringIO()
        drawn = classmethod(lambda cls, *arguments: Picture(arguments[-2], arguments[-1], b"a picture", 1, 1))
        with (
            mock.patch.object(runner, "_start", _start),
            mock.patch.object(Picture, "of", drawn),  # drawing takes most of the time
            mock.patch.object(Picture, "in_layouts", drawn),
            mock.patch("ccpml.serving.service.server.serve"),  # only the start of a service
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            code = _load(self.verbs[verb][1:]) if self.verbs[verb][0] == "load" else main(self.verbs[verb])
        return code, output.getvalue()

    def whole(self, verb: str) -> tuple[int, str, dict[str, bytes]]:
        """Return exit code, output and files of a verb that meets no damage."""
        if verb not in self.results:
            self.results[verb] = (*self.call(verb), self.result())
            self.restore()
        return self.results[verb]

    def cases(self) -> Iterator[tuple[str, str, str]]:
        """Yield all files with all states and all verbs: file, state, verb."""
        for folder, verbs in FOLDERS.items():
            names = [name for name in sorted(self.files) if f"{name}/".startswith(f"{folder}/")]
            names = [name for name in names if not LOCKS.search(name)]
            cases = itertools.product(names, STATES, verbs)
            yield from (case for case in cases if case[:2] not in OPTIONAL and not UNSEEN.match(" ".join(case)))

    def check(self, name: str, state: str, verb: str) -> str:
        """Damage a file and run a verb; return what is wrong, empty if nothing is; restore the files."""
        code, printed, expected = self.whole(verb)
        file = self.path / name
        try:
            if not damage(file, state, self.files):
                return ""
            before = self.content()
            _denied.update({str(file)} if state == "unreadable" else ())
            now, text = self.call(verb)
            _denied.clear()
            return self._judge(name, verb, (code, printed, expected), (now, text, before, self.content()))
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        finally:
            _denied.clear()
            self.restore()

    def _judge(self, name: str, verb: str, whole: tuple[int, str, dict[str, bytes]], now: tuple[Any, ...]) -> str:
        code, text, before, after = now
        *_, last = text.strip().splitlines() or [""]
        if code not in {0, 1, 2} or "Traceback" in text:
            return f"exit code {code}: {text}"
        after = {each: _without_times(each, content) for each, content in after.items()}
        before = {each: _without_times(each, content) for each, content in before.items()}
        changed = {each for each in {*before, *after} if before.get(each) != after.get(each) and not _is_ignored(each)}
        if code == 0:
            other = {each for each in {*after, *whole[2]} if after.get(each) != whole[2].get(each)}
            other = {each for each in other if not _is_ignored(each) and each != name}
            same = not other and (verb.startswith("resume") or _lasting(text) == _lasting(whole[1]))
            return "" if same or _names(text, name) else f"another result without a word: {sorted(other)} {text}"
        if not _names(text, name):
            return f"file not named: {last}"
        if code == 1 and "; " not in text and "expected column names" not in text:
            return f"no way out: {last}"
        if re.search(r"weights_only|pickle|Errno", text):
            return f"words of a library: {last}"
        written = OUTPUTS.get(verb)
        others = {each for each in changed if each != name and not (written and written.match(each))}
        return f"changed {sorted(others)}" if others else ""


def _newer_verbs(path: Path, data: str, flags: list[str]) -> dict[str, list[str]]:
    """Return the commands of indexes, exported models, comparisons and cleaned data."""
    run, images, picture = str(path / "run"), str(path / "images"), str(path / "images/group0/class00/0.png")
    index, ensemble, onnx = str(path / "index"), str(path / "ensemble"), str(path / "model.onnx")
    both = ["--ensemble", str(path / "other")]

    def out(verb: str) -> list[str]:
        return ["-o", str(path / _written_by(verb))]

    return {
        "train-other": ["train", data, *flags, "--seed=1", "--run", str(path / "other")],
        "compare": ["compare", run, str(path / "other"), *out("compare")],
        "clean": ["clean", run, data, *out("clean")],
        "train-cleaned": ["train", f"csv:{path / 'cleaned' / 'cleaned.csv'}", *flags, "--run", str(path / "out")],
        "export": ["export", run, "--format=onnx", *out("export")],
        "export-file": ["export", run, "--format=safetensors", *out("export-file")],
        "export-hub": ["export", run, "--format=hub", *out("export-hub")],
        "load-file": ["load", str(path / "model.safetensors")],
        "load-folder": ["load", str(path / "hub")],
        "embed-onnx": ["embed", onnx, data, *out("embed-onnx")],
        "index": ["index", run, images, *out("index")],
        "index-onnx": ["index", onnx, images, *out("index-onnx")],
        "index-ensemble": ["index", run, images, *both, *out("index-ensemble")],
        "search": ["search", index, picture, "--csv"],
        "search-approximate": ["search", index, picture, "--csv", "--approximate"],
        "search-onnx": ["search", index, picture, "--csv", "--run", onnx],
        "search-ensemble": ["search", ensemble, picture, "--csv"],
        "sync": ["index", run, images, "-o", index, "--sync"],
        "sync-ensemble": ["index", run, images, *both, "-o", ensemble, "--sync"],
        "verify": ["index", "--verify", index],
        "verify-ensemble": ["index", "--verify", ensemble],
        "compact": ["index", "--compact", index],
        "serve": ["serve", index, "--port=0"],
        "serve-onnx": ["serve", index, "--port=0", "--run", onnx],
        "serve-ensemble": ["serve", ensemble, "--port=0"],
    }


def _written_by(verb: str) -> str:
    """Return the name of what a verb makes new."""
    suffixes = {"compare": ".html", "export": ".onnx", "export-file": ".safetensors", "embed-onnx": ".npz"}
    return f"out{suffixes.get(verb, '')}"


def _load(names: list[str]) -> int:
    """Load exported weights as a program would, and print a sum that depends on all of them."""
    from ccpml import EmbeddingModel

    try:
        state = EmbeddingModel.from_pretrained(names[0]).state_dict()
    except (OSError, ValueError) as error:
        print(describe(error))
        return 1
    print([value.double().sum().item() for value in state.values()])
    return 0


def damage(file: Path, state: str, others: dict[str, bytes]) -> bool:
    """Damage a file; return False if it has no such state."""
    whole, chance = file.read_bytes(), random.Random(f"{file.name} {state}")
    if state == "newer":
        found = re.search(rb'^("?version"?: |\{"version": )(\d+)', whole, re.M)
        if found is None:
            return False
        file.write_bytes(whole[: found.start(2)] + b"%d" % (int(found[2]) + 1) + whole[found.end(2) :])
    elif state == "unreadable":
        pass  # while a verb runs
    elif state in {"missing", "folder"}:
        file.unlink()
        if state == "folder":
            file.mkdir()
    elif state == "empty":
        file.write_bytes(b"")
    elif state == "foreign":
        file.write_bytes(next(content for name, content in others.items() if Path(name).suffix != file.suffix))
    elif state == "cut":
        file.write_bytes(whole[: chance.randrange(1, max(2, len(whole)))])
    else:
        if not whole:
            return False
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
    return True


def _start(cell: Cell, device: str) -> runner.RunningCell:
    """Train a cell in this process, as its own would."""
    settings = {**cell.settings.as_dict(), "device": device}
    write_json(cell.settings_file, {"settings": settings, "chosen": cell.chosen})
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        code = cell_process._train(cell.settings_file, cell.path)
    write_text(cell.log_file, log.getvalue())
    ended: Any = mock.Mock(returncode=code, poll=lambda: code)
    return runner.RunningCell(cell, device, ended, time.monotonic())


def _is_ignored(name: str) -> bool:
    return WRITTEN.search(name) is not None


def _without_times(name: str, content: bytes) -> bytes:
    """Return metrics without the column of seconds, the second."""
    if not name.endswith("metrics.csv"):
        return content
    return b"\n".join(b",".join(cells[:1] + cells[2:]) for cells in (row.split(b",") for row in content.splitlines()))


def _lasting(text: str) -> list[str]:
    """Return what a command prints, without lines of progress."""
    progress = r"\d%\||\.\.\.$|it/s|cells finished|\d\d:\d\d$"
    text = re.sub(r"(http://127\.0\.0\.1):\d+", r"\1", text)  # any free port
    return [line for line in re.split(r"[\r\n]+", text) if line and not re.search(progress, line)]


def _names(text: str, name: str) -> bool:
    """Whether a text names a file, or the folder of a cache."""
    parts = Path(name).parts
    if parts[-1] == "scores.json" and "the run is not finished" in text:  # so it is without them
        return True
    if re.search(r"problems?:\n| mended\)", text):  # pictures of an index, by their paths
        return True
    return re.sub(r"-(shm|wal)$", "", parts[-1]) in text or (".ccpml-cache" in parts and str(Path(*parts[:3])) in text)
