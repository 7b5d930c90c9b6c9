"""``ccpml benchmark``: the tables and the ablations."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ccpml.benchmark.ablations import ABLATIONS, ablation_rows
from ccpml.benchmark.protocol import PROTOCOLS, ROW_METHODS, Benchmark, Row, protocol_settings
from ccpml.benchmark.rows import table_rows, variant_rows, with_row_settings
from ccpml.cli.common.commas import is_free_text
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, add_resume_note, advise_to_resume, report_stop
from ccpml.cli.common.settings_parser import (
    Parsed,
    SettingsParser,
    check_settings,
    note_default_data,
    note_without_effect,
    read_yaml,
)
from ccpml.data_name import DataName
from ccpml.losses import LOSSES
from ccpml.numbers import counted
from ccpml.progress import announce, print_note
from ccpml.runs.defaults import FOLDS, RUN_SETTINGS
from ccpml.system_errors import is_refused

if TYPE_CHECKING:
    from ccpml.benchmark.results import RowResult

_LOSSES = "c1,c2,triplet,ms"
_METHODS = "plain,ccp,xbm"
_MOST = 1024  # repeats, and cells at once
_DEVICE = re.compile(r"auto|cpu|mps|cuda(?::(\d+))?")


def run(arguments: list[str]) -> int:
    """Train the cells of a table or an ablation, and write it."""
    options, benchmark = parse(arguments)
    check_settings(benchmark.base, options.files, benchmark.out / "benchmark.yaml")

    command, kept = ["benchmark", *arguments], f"finished runs are kept in {benchmark.out}; "
    advise_to_resume(command, benchmark.out / "benchmark.yaml", kept)
    announce_libraries()
    from ccpml.benchmark.live_table import LiveTable
    from ccpml.benchmark.prepare import prepare_benchmark
    from ccpml.benchmark.runner import run_cells

    devices = _devices(options.devices or benchmark.base.device)
    at_once = options.at_once or len(devices)
    benchmark = prepare_benchmark(benchmark, at_once)
    try:
        table = LiveTable(benchmark)
        with table.live:
            progress = run_cells(benchmark, devices, at_once, table.show)

        from ccpml.benchmark.results import collect_results

        announce("computing the table")
        results = collect_results(benchmark)
        paths = _write(benchmark, results)
    except KeyboardInterrupt as stopped:
        return report_stop(stopped, command, kept)
    except (OSError, RuntimeError) as error:
        if is_refused(error):
            add_resume_note(error, command)
        raise
    print((benchmark.out / "table.md").read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
    _note_others(benchmark)
    for problem in progress.repeated:
        print_note(f"{problem}; the run was scored again")
    problems = [f"failed: {title}: {reason}" for title, reason in progress.failed.items()]
    problems = problems or [f"missing: {problem}" for result in results for problem in result.problems]
    for problem in problems:
        print(f"ccpml: {problem}", file=sys.stderr)
    if problems:
        print("ccpml: run the same command again to retry what failed or is missing", file=sys.stderr)
    return 1 if problems else 0


def _note_others(benchmark: Benchmark) -> None:
    """Note rows and repeats of the folder that have finished runs and are not in the table."""
    from ccpml.data.images.read import MAX_LISTED

    rows = {row.name for row in benchmark.rows}
    finished = [file.parts[-3:-1] for file in benchmark.out.glob("cells/*/*/scores.json")]
    others = sorted({row for row, _ in finished} - rows)
    if others:
        names = ", ".join(others[:MAX_LISTED]) + (", …" if len(others) > MAX_LISTED else "")
        print_note(f"{benchmark.out}: finished runs that are not in this table: {names}; name all rows to add them")
    numbers = (re.match(r"repeat([0-9]+)-fold", cell) for row, cell in finished if row in rows)
    repeats = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if repeats > benchmark.repeats:
        shown = f"the table has {counted(benchmark.repeats, 'repeat')}, and finished runs are there of {repeats:,}"
        print_note(f"{benchmark.out}: {shown}; --repeats {repeats} adds them")


def _write(benchmark: Benchmark, results: "Sequence[RowResult]") -> list[Path]:
    """Write tables, best settings and the picture; return their files."""
    from ccpml.benchmark.outputs import write_outputs
    from ccpml.benchmark.results import best_settings
    from ccpml.files import write_yaml
    from ccpml.report.ablation import draw_ablation, draw_table

    paths = write_outputs(benchmark, results)
    if benchmark.ablation:
        paths.append(benchmark.out / "best.yaml")
        best = best_settings(results)
        write_yaml(paths[-1], best)
        for name in sorted({replace(result.row, variant="").name for result in results if result.validation} - {*best}):
            why = "all values have the same validation score, so that none is better"
            print_note(f"{name}: {why}; train longer, or on more classes")
    return [*paths, (draw_ablation if benchmark.ablation else draw_table)(benchmark, results, benchmark.out)]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Benchmark]:
    """Parse the arguments: the verb's own options, with the files that give settings, and the benchmark."""
    parser = SettingsParser(
        "benchmark",
        "Compare methods and losses under a protocol, or run an ablation: a run per cell, then tables and a figure.",
        "ccpml benchmark <data> [options]",
        without=("method", "loss", "fold"),
        left_open=RUN_SETTINGS,
    )
    protocols = "mlrc: one model per fold; conventional: one model of 512 dimensions (default: mlrc)"
    parser.option("protocol", PROTOCOLS, protocols, "mlrc")
    text = f"some of plain, ccp, xbm and xbm-s, the small memory (default: {_METHODS})"
    parser.option("methods", (str,), text, is_item=ROW_METHODS.__contains__)
    names = ", ".join(entry.short_name or name for name, entry in LOSSES.items())
    parser.option("losses", (str,), f"some of {names} (default: {_LOSSES})", _LOSSES, _is_loss)
    parser.option("repeats", (int,), "runs of each cell, with seeds from --seed upwards (default: 1)", 1)
    text = f"vary one setting instead, one model per value: {', '.join(ABLATIONS)}, or FIELD=VALUE,VALUE"
    parser.option("ablation", (str,), text, is_item=lambda word: is_free_text(word) and "=" not in word)
    text = "another row: CCP with these settings; may be repeated"
    parser.option("variant", (list[str],), text, [], _is_assignment, action="append", metavar="NAME:FIELD=VALUE")
    text = "YAML file of settings per row (triplet-ccp: {lr: 0.003}), such as the best.yaml of an ablation"
    parser.option("row_settings", (str,), text, metavar="FILE")
    parser.option("out", (str,), "folder (default: runs/benchmark/<data>-<protocol or ablation>)")
    text = "cuda:0,cuda:1 ...; cells use them in turn (default: --device)"
    parser.option("devices", (str,), text, is_item=lambda word: _DEVICE.fullmatch(word) is not None)
    parser.option("at_once", (int,), "cells trained at the same time (default: one per device)")
    parsed = parser.parse(arguments, preset=lambda options: protocol_settings(options.protocol))
    note_default_data(parsed)
    parsed.options.files = parsed.files
    benchmark = _benchmark(parsed)
    varied = set.intersection(*({*dict(row.changes)} for row in benchmark.rows))
    note_without_effect(parsed, [(row.method.partition("-")[0], row.loss) for row in benchmark.rows], varied)
    return parsed.options, benchmark


def _benchmark(parsed: Parsed) -> Benchmark:
    options, settings = parsed.options, parsed.settings
    ablation = options.ablation and options.ablation.partition("=")[0]
    is_single_fold = options.protocol != "mlrc" or ablation is not None
    for name in ("repeats", "at_once"):
        if getattr(options, name) is not None and not 1 <= getattr(options, name) <= _MOST:
            raise UsageError(f"{name}: expected 1 to {_MOST}, got {getattr(options, name)}")
    try:
        name = f"{DataName.parse(settings.data).label}-{ablation or options.protocol}"
        benchmark = Benchmark(
            base=settings,
            rows=_rows(parsed),
            out=Path(options.out or Path("runs", "benchmark", name)),
            protocol=options.protocol,
            repeats=options.repeats,
            folds=(0,) if is_single_fold else tuple(range(settings.folds or FOLDS)),
            ablation=ablation,
            parameters=parsed.parameters,
        )
        losses = list(dict.fromkeys(row.loss for row in benchmark.rows))
        for name in benchmark.parameters:
            if not any(name in LOSSES[loss].parameters for loss in losses):
                raise ValueError(f"{name}: not a parameter of {' or '.join(losses)}")
        list(benchmark.cells())
    except ValueError as error:
        raise UsageError(error) from error
    return benchmark


def _rows(parsed: Parsed) -> tuple[Row, ...]:
    options = parsed.options
    losses, methods = _split(options.losses), options.methods and _split(options.methods)
    if options.ablation is not None:
        for flag, value in (("--variant", options.variant), ("--row-settings", options.row_settings)):
            if value:
                raise UsageError(f"{flag}: cannot be combined with --ablation")
        return ablation_rows(options.ablation, losses, methods, parsed.settings)
    rows = table_rows(losses, _split(_METHODS) if methods is None else methods)
    for variant in options.variant:
        rows += variant_rows(losses, variant)
    if options.row_settings is not None:
        try:
            rows = with_row_settings(rows, read_yaml("--row-settings", options.row_settings))
        except ValueError as error:
            raise UsageError(f"--row-settings {options.row_settings}: {error}") from error
    if len({row.name for row in rows}) < len(rows):
        raise UsageError("--variant: expected a different name for each, got one twice")
    return rows


def _is_loss(word: str) -> bool:
    return word in LOSSES or word.lower() in {entry.short_name for entry in LOSSES.values()}


def _is_assignment(word: str) -> bool:
    """Whether a word sets another value of a variant, rather than naming the next one or the data."""
    return "=" in word and ":" not in word


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _devices(names: str) -> list[str]:
    """Return the devices by name; for auto, every CUDA device, or what training chooses by itself."""
    import torch

    count = torch.cuda.device_count()
    if names == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["auto"]
    devices = _split(names)
    for device in devices:
        found = _DEVICE.fullmatch(device)
        if found is None:
            raise UsageError(f"--devices: expected some of auto, cpu, cuda, cuda:<number> and mps, got {device}")
        if device.startswith("cuda") and int(found[1] or 0) >= count:
            raise UsageError(f"--devices: {device} not available ({count} CUDA devices found)")
    if not devices:
        raise UsageError(f"--devices: expected one or more, got {names!r}")
    return devices
