"""``ccpml benchmark``: the tables and the ablations."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ccpml.cli.options import UsageError, experiment_parser, parse_experiment, require_experiment

if TYPE_CHECKING:
    from ccpml.experiments.protocol import Benchmark, Row

_LOSSES = "c1,c2,triplet,ms"
_METHODS = "plain,ccp,xbm"


def benchmark(arguments: list[str]) -> int:
    """Train the cells of a table or an ablation, and write it."""
    parsed, to_do = parse_benchmark(arguments)
    require_experiment(to_do.base)

    from ccpml.cli.board import Board
    from ccpml.experiments.benchmark import begin, best_settings, run_cells
    from ccpml.experiments.files import write_text

    begin(to_do)
    devices = _devices(parsed.get("devices") or to_do.base.device)
    at_once = parsed.get("at_once") or len(devices)
    try:
        with Board(to_do) as board:
            progress = run_cells(to_do, devices, at_once, board.show)

        from ccpml.experiments.results import gather
        from ccpml.experiments.tables import write_tables
        from ccpml.report.ablation import draw_ablation, draw_table

        results = gather(to_do)
    except KeyboardInterrupt:
        way_on = shlex.join(["ccpml", "benchmark", *arguments])
        print(f"ccpml: stopped, what is finished stays in {to_do.out}; go on with: {way_on}", file=sys.stderr)
        return 130
    places = write_tables(to_do, results)
    if to_do.ablation:
        places.append(to_do.out / "best.yaml")
        write_text(places[-1], yaml.safe_dump(best_settings(to_do), sort_keys=False))
    places.append((draw_ablation if to_do.ablation else draw_table)(to_do, results, to_do.out))
    print((to_do.out / "table.md").read_text(encoding="utf-8"))
    print("\n".join(str(place) for place in places))
    for title, why in progress.failed.items():
        print(f"ccpml: failed: {title}: {why}", file=sys.stderr)
    if progress.failed:
        print("ccpml: the same command tries what failed again", file=sys.stderr)
    return 1 if progress.failed else 0


def parse_benchmark(arguments: list[str]) -> "tuple[Any, Benchmark]":
    """Parse the options of ``benchmark``: its own, and those of `Experiment` but for what its cells vary."""
    from ccpml.experiments.protocol import ABLATIONS, PROTOCOLS, Benchmark, protocol_settings

    command = experiment_parser(
        "benchmark",
        "Compare methods and losses under a protocol, or make an ablation: each cell a run, then tables and a figure.",
        "ccpml benchmark <data> [options]",
    )
    absent = argparse.SUPPRESS
    command.add_argument(
        "--protocol", default="mlrc", choices=PROTOCOLS, help="mlrc: a model for each fold; conventional: one, of 512-D"
    )
    command.add_argument("--methods", help=f"some of plain, ccp, xbm, xbm-s: the small memory (default: {_METHODS})")
    command.add_argument("--losses", default=_LOSSES, help="c1, c2, triplet, ms, proxy_anchor, proxy_nca ...")
    command.add_argument(
        "--repeats", type=int, default=1, help="runs of each cell; the seeds are --seed and those after"
    )
    command.add_argument(
        "--ablation",
        help=f"vary one setting instead, one model for each value: {', '.join(ABLATIONS)}, or FIELD=VALUE,VALUE",
    )
    command.add_argument(
        "--variant", action="append", default=[], metavar="NAME:FIELD=VALUE", help="a row more: CCP with these settings"
    )
    command.add_argument(
        "--row_settings", help="YAML file of settings by row (triplet-ccp: {lr: 0.003}), as an ablation's best.yaml"
    )
    command.add_argument("--out", default=absent, help="folder (default: runs/benchmark/<data>-<protocol or ablation>)")
    command.add_argument("--devices", default=absent, help="cuda:0,cuda:1 ...; cells take them in turn")
    command.add_argument("--at_once", type=int, default=absent, help="cells trained at a time (default: one a device)")
    protocol = _given(arguments, "--protocol") or "mlrc"
    if protocol in PROTOCOLS:
        command.set_defaults(**protocol_settings(protocol))
    parsed, experiment = parse_experiment(command, arguments)
    for name in ("method", "loss", "fold"):
        if _given(arguments, f"--{name}") is not None:
            raise UsageError(f"--{name}: the cells of a benchmark vary it; see --methods, --losses and --protocol")
    for name in ("repeats", "at_once"):
        if parsed.get(name, 1) < 1:
            raise UsageError(f"--{name}: expected at least 1, got {parsed[name]}")
    ablation = parsed.ablation and parsed.ablation.partition("=")[0]
    whole = parsed.protocol == "mlrc" and ablation is None
    try:
        to_do = Benchmark(
            base=experiment,
            rows=_rows(parsed),
            out=Path(parsed.get("out") or _default_out(experiment.data, ablation or parsed.protocol)),
            protocol=parsed.protocol,
            repeats=parsed.repeats,
            folds=tuple(range(experiment.folds)) if whole else (0,),
            ablation=ablation,
        )
        list(to_do.cells())
    except ValueError as error:
        raise UsageError(error) from error
    return parsed, to_do


def _rows(parsed: Any) -> "tuple[Row, ...]":
    from ccpml.experiments.protocol import ablation_rows, table_rows, variant_rows, with_settings

    losses = _list(parsed.losses)
    if parsed.ablation is not None:
        return ablation_rows(parsed.ablation, losses, None if parsed.methods is None else _list(parsed.methods))
    rows = table_rows(losses, _list(_METHODS if parsed.methods is None else parsed.methods))
    for variant in parsed.variant:
        rows += variant_rows(losses, variant)
    if parsed.row_settings is not None:
        rows = with_settings(rows, _read_yaml(parsed.row_settings))
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise UsageError("--variant: each needs a name of its own")
    return rows


def _read_yaml(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--row_settings: {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--row_settings: {path} is not YAML") from error


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _given(arguments: list[str], flag: str) -> str | None:
    """Give the value of a flag on the command line, None if it is not there."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("-", "_") == flag.replace("-", "_"):
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return None


def _default_out(data: str, what: str) -> Path:
    kind, _, path = data.partition(":")
    return Path("runs") / "benchmark" / f"{Path(path).expanduser().resolve().stem if path else kind}-{what}"


def _devices(named: str) -> list[str]:
    """Give the devices by name; auto is every CUDA device that is here, or what training finds by itself."""
    if named == "auto":
        import torch

        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["auto"]
    return _list(named)
