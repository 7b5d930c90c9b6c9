"""``ccpml benchmark``: the tables and the ablations."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ccpml.cli.options import UsageError, check_settings, parse_settings, settings_parser
from ccpml.data_name import DataName

if TYPE_CHECKING:
    from ccpml.benchmark.protocol import Benchmark, Row
    from ccpml.runs.settings import Settings

_LOSSES = "c1,c2,triplet,ms"
_METHODS = "plain,ccp,xbm"


def benchmark(arguments: list[str]) -> int:
    """Train the cells of a table or an ablation, and write it."""
    parsed, to_do = parse_benchmark(arguments)
    check_settings(to_do.base)

    from ccpml.benchmark.prepare import prepare_benchmark
    from ccpml.benchmark.runner import run_cells
    from ccpml.cli.board import Board
    from ccpml.files import write_text

    devices = _devices(parsed.get("devices") or to_do.base.device)
    at_once = parsed.get("at_once") or len(devices)
    to_do = prepare_benchmark(to_do, at_once)
    try:
        with Board(to_do) as board:
            progress = run_cells(to_do, devices, at_once, board.show)

        from ccpml.benchmark.outputs import write_outputs
        from ccpml.benchmark.results import best_settings, collect_results
        from ccpml.report.ablation import draw_ablation, draw_table

        results = collect_results(to_do)
    except KeyboardInterrupt:
        way_on = shlex.join(["ccpml", "benchmark", *arguments])
        print(f"ccpml: stopped, what is finished stays in {to_do.out}; go on with: {way_on}", file=sys.stderr)
        return 130
    places = write_outputs(to_do, results)
    if to_do.ablation:
        places.append(to_do.out / "best.yaml")
        write_text(places[-1], yaml.safe_dump(best_settings(results), sort_keys=False))
    places.append((draw_ablation if to_do.ablation else draw_table)(to_do, results, to_do.out))
    print((to_do.out / "table.md").read_text(encoding="utf-8"))
    print("\n".join(str(place) for place in places))
    for title, why in progress.failed.items():
        print(f"ccpml: failed: {title}: {why}", file=sys.stderr)
    missing = [] if progress.failed else [problem for result in results for problem in result.problems]
    for problem in missing:
        print(f"ccpml: missing: {problem}", file=sys.stderr)
    if progress.failed or missing:
        print("ccpml: the same command tries again what failed or is missing", file=sys.stderr)
    return 1 if progress.failed or missing else 0


def parse_benchmark(arguments: list[str]) -> "tuple[Any, Benchmark]":
    """Parse the options of ``benchmark``: its own, and those of `Settings` but for what its cells vary."""
    from ccpml.benchmark.ablations import ABLATIONS
    from ccpml.benchmark.protocol import PROTOCOLS, Benchmark, protocol_settings
    from ccpml.losses import parameter_names

    command = settings_parser(
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
    in_file = _read_yaml("--config", _given(arguments, "--config"))
    if not isinstance(in_file, dict):
        raise UsageError(f"--config: {_given(arguments, '--config')} holds no settings by their names")
    for name in ("method", "loss", "fold"):
        if name in in_file or _given(arguments, f"--{name}") is not None:
            way_out = f"; take {name} out of {_given(arguments, '--config')}" if name in in_file else ""
            raise UsageError(
                f"--{name}: the cells of a benchmark vary it; see --methods, --losses and --protocol{way_out}"
            )
    protocol = _given(arguments, "--protocol") or in_file.get("protocol") or "mlrc"
    if protocol in PROTOCOLS:
        command.set_defaults(**protocol_settings(protocol))
    of_losses = parameter_names()
    parsed, settings = parse_settings(command, arguments, apart=of_losses)
    for name in ("repeats", "at_once"):
        if parsed.get(name, 1) < 1:
            raise UsageError(f"--{name}: expected at least 1, got {parsed[name]}")
    if parsed.get("out") == "":
        raise UsageError("--out: expected a folder, got nothing")
    ablation = parsed.ablation and parsed.ablation.partition("=")[0]
    whole = parsed.protocol == "mlrc" and ablation is None
    try:
        to_do = Benchmark(
            base=settings,
            rows=_rows(parsed, settings),
            out=Path(parsed.get("out") or _default_out(settings.data, ablation or parsed.protocol)),
            protocol=parsed.protocol,
            repeats=parsed.repeats,
            folds=tuple(range(settings.folds)) if whole else (0,),
            ablation=ablation,
            parameters={name: parsed[name] for name in sorted(of_losses) if parsed[name] is not None},
        )
        _require_takers(to_do)
        list(to_do.cells())
    except ValueError as error:
        raise UsageError(error) from error
    return parsed, to_do


def _require_takers(to_do: "Benchmark") -> None:
    """Check that each parameter of a loss is of one of the losses."""
    from ccpml.losses import LOSSES

    losses = list(dict.fromkeys(row.loss for row in to_do.rows))
    for name in to_do.parameters:
        if not any(name in LOSSES[loss].parameters for loss in losses):
            raise UsageError(f"--{name}: is no parameter of {', '.join(losses)}")


def _rows(parsed: Any, settings: "Settings") -> "tuple[Row, ...]":
    from ccpml.benchmark.ablations import ablation_rows
    from ccpml.benchmark.rows import table_rows, variant_rows, with_row_settings

    losses = _list(parsed.losses)
    if parsed.ablation is not None:
        for name in ("variant", "row_settings"):
            if parsed[name]:
                raise UsageError(f"--{name}: goes with a table, not with an ablation")
        methods = None if parsed.methods is None else _list(parsed.methods)
        return ablation_rows(parsed.ablation, losses, methods, settings)
    rows = table_rows(losses, _list(_METHODS if parsed.methods is None else parsed.methods))
    for variant in parsed.variant:
        rows += variant_rows(losses, variant)
    if parsed.row_settings is not None:
        rows = with_row_settings(rows, _read_yaml("--row_settings", parsed.row_settings))
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise UsageError("--variant: each needs a name of its own")
    return rows


def _read_yaml(flag: str, path: str | None) -> Any:
    """Read the YAML file that a flag names; nothing if there is none."""
    if path is None:
        return {}
    try:
        return yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"{flag}: {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag}: {path} is not YAML") from error


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
    return Path("runs") / "benchmark" / f"{DataName.parse(data).label}-{what}"


def _devices(named: str) -> list[str]:
    """Give the devices by name; auto is every CUDA device that is here, or what training finds by itself."""
    import torch

    count = torch.cuda.device_count()
    if named == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["auto"]
    devices = _list(named)
    for device in devices:
        found = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d+))?", device)
        if found is None:
            raise UsageError(f"--devices: expected some of auto, cpu, cuda, cuda:<number> and mps, got {device!r}")
        if device.startswith("cuda") and int(found[1] or 0) >= count:
            raise UsageError(f"--devices: {device} is not here ({count} CUDA devices are)")
    if not devices:
        raise UsageError(f"--devices: expected one or more, got {named!r}")
    return devices
