"""Which files and folders a verb looks at, as the system sees it: by a trace of its calls (strace).

What no call of a verb names cannot change what it does, so that damage there need not be tried.
"""

import importlib
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.damage.commands import MAKERS
from tests.damage.states import SEEN_IN_LISTINGS
from tests.damage.world import Case, World

_MARK = "/damage-matrix/"
_END = "-"
LIBRARIES = ("lightning.pytorch", "torch.utils.tensorboard", "matplotlib.pyplot", "sklearn.cluster", "faiss")


@dataclass
class Trace:
    """Paths that each verb names in a call of the system, and the folders that it lists, by names in the world."""

    named: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    listed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, world: World, log: Path) -> Self:
        """Run each verb of a world in a process of its own, and trace it.

        Raises:
            OSError: If strace is not installed or does not work.
        """
        command = ["strace", "-f", "-q", "-y", "-s", "4096", "-e", "trace=%file", "-e", "signal=none", "-o", str(log)]
        root = Path(__file__).parents[2]
        verbs = sorted({*world.verbs} - {*MAKERS})
        code = f"from tests.damage.trace import run_all; run_all({str(world.path)!r}, {verbs!r})"
        done = subprocess.run([*command, sys.executable, "-c", code], cwd=root, capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"strace: {done.stderr.decode(errors='replace').strip()[-300:]}")
        world.restore()
        return cls.read(log, world)

    @classmethod
    def read(cls, log: Path, world: World) -> Self:
        """Read a log of an earlier trace of the same files."""
        found, verb = cls(), ""
        for line in log.read_text(errors="replace").splitlines():
            if mark := re.search(rf'"{_MARK}([\w-]*)"', line):
                verb = "" if mark[1] == _END else mark[1]
            elif verb:
                found._add(verb, line, str(world.path))
        return found

    def _add(self, verb: str, line: str, top: str) -> None:
        folder = re.search(r"\(\w+<([^>]*)>, ", line)  # at which a path begins that is relative
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', line):
            path = os.path.normpath(text if text.startswith("/") or not folder else f"{folder[1]}/{text}")
            if f"{path}/".startswith(f"{top}/"):
                self.named[verb].add(path[len(top) + 1 :])
                if "O_DIRECTORY" in line:
                    self.listed[verb].add(path[len(top) + 1 :])

    def reads(self, case: Case) -> bool:
        """Whether the verb of a case looks at the file, or at something in the folder, or could see it in a list."""
        name = case.name.rstrip("/")
        named = self.named[case.verb]
        if name in named or (case.name.endswith("/") and any(each.startswith(case.name) for each in named)):
            return True
        parent = "" if "/" not in name else name.rpartition("/")[0]
        return case.state in SEEN_IN_LISTINGS and parent in self.listed[case.verb]


def run_all(path: str, verbs: list[str]) -> None:
    """Run verbs in a world, each in a fork of this process, after a call of the system that names it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    world = World.open(Path(path), apart=True)
    for verb in verbs:
        Path(f"{_MARK}{verb}").exists()
        world.call(verb)
        Path(f"{_MARK}{_END}").exists()
        world.restore()
