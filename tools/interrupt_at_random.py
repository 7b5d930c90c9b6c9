"""Interrupt commands at random moments, run them again, and compare the results with uninterrupted ones bit for bit.

Usage: ``python tools/interrupt_at_random.py [--moments 50] [--seed 0]``, from the root of the repository. Each moment
is a verb (train, benchmark, tune, data cache or report, on toy images), a signal (SIGINT, SIGTERM or SIGKILL), and a
time, which is uniform over the duration of the uninterrupted command, start of the interpreter included. Prints a line
for each moment; the exit code is 1 if a result differs, or if a command that was interrupted prints a traceback.
"""

import argparse
import csv
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ccpml
from tests.end_to_end.test_interruption import SETTINGS, command
from tests.toy import QUICK, toy_folder

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STOPPED: Final = {130, 143, *(-number for number in SIGNALS)}
# Files with times, training states, which the steps after them compare, and a study's random id and database, whose
# table is trials.csv.
OTHERS: Final = {"tensorboard", "timings.json", "last.ckpt", "study.yaml", "study.db"}
PATIENCE: Final = 900.0  # seconds


@dataclass(frozen=True)
class Verb:
    """A command that can be interrupted: what it needs, its arguments, and those that run it again."""

    prepare: Callable[[Path], object]
    start: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]


def verbs(images: Path, finished: Path) -> dict[str, Verb]:
    """Return all verbs; their results are below the folder that they are given."""
    data, quick = f"folder:{images}", {**QUICK, "max_steps": 8, "validate_every": 1}
    few = {name: value for name, value in quick.items() if name not in {"proxies_per_class", "pool_size"}}

    def train(folder: Path) -> list[str]:
        return command("train", data, *_flags(SETTINGS), "--run", folder / "run")

    def resume(folder: Path) -> list[str]:
        run = folder / "run"
        return command("train", "--resume", run) if (run / "experiment.yaml").is_file() else train(folder)

    def benchmark(folder: Path) -> list[str]:
        rows = ["--methods=ccp", "--losses=c2", "--at_once=2"]
        return command("benchmark", data, *_flags(quick), *rows, "--out", folder / "out")

    def tune(folder: Path) -> list[str]:
        search = ["--preset=lambda-proxies", "--search=proxies_per_class=1..3", "--trials=2", "--startup_trials=1"]
        return command("tune", data, *_flags(few), *search, "--out", folder / "out")

    def cache(folder: Path) -> list[str]:
        return command("data", "cache", f"folder:{folder / 'images'}", "--side=24")

    def report(folder: Path) -> list[str]:
        return command("report", folder / "run")

    return {
        "train": Verb(Path.mkdir, train, resume),
        "benchmark": Verb(Path.mkdir, benchmark, benchmark),
        "tune": Verb(Path.mkdir, tune, tune),
        "data cache": Verb(lambda folder: shutil.copytree(images, folder / "images"), cache, cache),
        "report": Verb(lambda folder: _unreported(finished, folder / "run"), report, report),
    }


def main() -> int:
    """Interrupt as often as requested."""
    parser = argparse.ArgumentParser(description="Interrupt commands at random moments, and compare their results.")
    parser.add_argument("--moments", type=int, default=50, help="number of interruptions (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of verbs, signals and times (default: 0)")
    options = parser.parse_args()
    chance, place = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="interrupted-"))
    images, finished = toy_folder(place / "toy"), place / "finished"
    known, seconds = verbs(images, finished), dict[str, float]()
    cases = _cases(list(known), options.moments, chance)
    if any(name == "report" for name, _ in cases):
        subprocess.run(command("train", f"folder:{images}", *_flags(QUICK), "--run", finished), check=True)
    for name in sorted({name for name, _ in cases}):
        begin = time.monotonic()
        known[name].prepare(place / "now")  # always the same folder, which results name
        _finish(known[name].start(place / "now"))
        seconds[name] = time.monotonic() - begin
        (place / "now").rename(place / f"whole {name}")
        print(f"uninterrupted {name}: {seconds[name]:.1f} s", flush=True)
    failures = 0
    for number, (name, which) in enumerate(cases, 1):
        moment = chance.uniform(0, seconds[name])
        problem, code = interrupt(known[name], which, moment, place / "now", place / f"whole {name}")
        ended = "had ended" if code == 0 else f"exit code {code}"
        what = f"{name}, {which.name} after {moment:.2f} of {seconds[name]:.1f} s ({ended})"
        print(f"{number}/{len(cases)} {what}: {problem or 'same result'}", flush=True)
        if problem:
            failures += 1
            (place / "now").rename(place / f"failed {number}")
        else:
            shutil.rmtree(place / "now")
    kept = f"; what they left is in {place}" if failures else ""
    print(f"{len(cases)} moments with seed {options.seed}: {failures} failed{kept}")
    if not failures:
        shutil.rmtree(place)
    return min(failures, 1)


def interrupt(verb: Verb, which: signal.Signals, moment: float, folder: Path, whole: Path) -> tuple[str, int]:
    """Send a signal to a verb after some seconds and run it again; return what is wrong, and its first exit code."""
    verb.prepare(folder)
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(verb.start(folder), stdout=null, stderr=pipe, text=True)
    try:
        _, error = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(which)
        _, error = process.communicate(timeout=PATIENCE)
    code: int = process.returncode
    if code not in {0, *STOPPED}:
        return f"FAILED: {error.strip().splitlines()[-1:]}", code
    # Until the first line of ccpml, a traceback is the interpreter's own.
    if "Traceback" in error and str(Path(ccpml.__file__).parent) in error:
        return f"A TRACEBACK: {error.strip().splitlines()[-1]}", code
    try:
        _finish(verb.again(folder))
    except subprocess.CalledProcessError as failed:
        return f"NOT RESUMED: {failed.stderr.strip().splitlines()[-1:]}", code
    one, other = content(folder), content(whole)
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"DIFFERS: {', '.join(differing[:5])} ({len(differing)} files)" if differing else "", code


def content(folder: Path) -> dict[str, object]:
    """Return what is in the files of a folder, without times and training states."""
    files = {file: file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    return {
        str(name): _table(file) if file.name in {"metrics.csv", "trials.csv"} else file.read_bytes()
        for file, name in files.items()
        if not OTHERS & set(name.parts) and file.suffix not in {".lock", ".log"} and file.name != ".lock"
    }


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def _cases(names: list[str], count: int, chance: random.Random) -> list[tuple[str, signal.Signals]]:
    """Return verbs and signals in random order, all pairs equally often as far as the count allows."""
    pairs = [(name, which) for name in names for which in SIGNALS]
    cases = list[tuple[str, signal.Signals]]()
    while len(cases) < count:
        cases += chance.sample(pairs, len(pairs))
    return cases[:count]


def _finish(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=PATIENCE)


def _flags(settings: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def _unreported(finished: Path, run: Path) -> None:
    """Copy a run without its report."""
    shutil.copytree(finished, run)
    (run / "report.html").unlink()
    shutil.rmtree(run / "pictures")


if __name__ == "__main__":
    sys.exit(main())
