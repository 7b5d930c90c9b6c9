"""Does CCP help? Train every cell of losses × methods × seeds with one budget, and print the table.

    python -m benchmarks.evidence glyphs --losses contrastive,multi_similarity
    python -m benchmarks.evidence folder:images_background_small1 --options "--test_classes Korean/*"
    python -m benchmarks.evidence glyphs --variant one-proxy:"--proxies_per_class 1"

A cell is a normal run directory. Finished cells are skipped and killed ones resumed, so the same command goes on
where it was stopped. Two cells run at once, each on one thread.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = {"plain": "--method plain", "ccp": "--method ccp"}


def run_cell(arguments: argparse.Namespace, loss: str, method: str, seed: int) -> Path:
    """Train one cell, unless it is finished."""
    path = arguments.out / f"{loss}-{method}-seed{seed}"
    if (path / "scores.json").is_file():
        return path
    command = [sys.executable, "-m", "ccpml.cli", "train"]
    if (path / "experiment.yaml").is_file():
        command += ["--resume", str(path)]
    else:
        command += [arguments.data, "--loss", loss, "--seed", str(seed), "--run", str(path)]
        command += ["--threads", "1", "--workers", "0", "--max_steps", str(arguments.steps)]
        command += shlex.split(f"{arguments.methods[method]} {arguments.options}")
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{result.stderr[-2000:]}")
    print(f"finished {path.name}", file=sys.stderr, flush=True)
    return path


def spread(values: list[float]) -> str:
    """Give mean ± standard deviation, in per cent."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def last_row(path: Path, column: str) -> float:
    """Give a column of metrics.csv at the last validation."""
    header, *rows = (line.split(",") for line in (path / "metrics.csv").read_text().splitlines())
    return float(rows[-1][header.index(column)])


def table(arguments: argparse.Namespace, cells: dict[tuple[str, str, int], Path]) -> str:
    """Give the table in Markdown, a row for each loss and method; gains are over plain, seed by seed."""
    columns = "validation MAP@R | MAP@R | P@1 | P@R | gain in MAP@R | wins | projections | val. radius | val. distance"
    lines = [f"| loss | method | {columns} |", "|---" * 11 + "|"]
    for loss in arguments.losses:
        plain: list[float] = []
        for method in arguments.methods:
            paths = [cells[loss, method, seed] for seed in arguments.seeds]
            scores = [json.loads((path / "scores.json").read_text()) for path in paths]
            row = [loss, method, spread([s["validation"]["map_at_r"] for s in scores])]
            row += [spread([s["test"][name] for s in scores]) for name in ("map_at_r", "precision_at_1", "r_precision")]
            found = [s["test"]["map_at_r"] for s in scores]
            plain = plain or found
            gains = [a - b for a, b in zip(found, plain, strict=True)]
            wins = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            made = ", ".join(str(s["instances"]) for s in scores)
            row += ["", "", ""] if method == "plain" else [spread(gains), wins, made]
            for column in ("val_covering_radius", "val_interclass_distance"):
                row.append(f"{statistics.mean(last_row(path, column) for path in paths):.3f}")
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--losses", default="contrastive,cosine_contrastive,triplet,multi_similarity")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--options", default="", help="further options of ccpml train, as one string")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME:OPTIONS", help="a row more: CCP with these options"
    )
    parser.add_argument("--out", type=Path, help="where the runs lie; by default runs/evidence/<name of the data>")
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    arguments.losses = arguments.losses.split(",")
    arguments.out = arguments.out or Path("runs/evidence") / Path(arguments.data.rpartition(":")[2]).stem
    arguments.seeds = [int(seed) for seed in arguments.seeds.split(",")]
    variants = dict(variant.split(":", 1) for variant in arguments.variant)
    arguments.methods = METHODS | {name: f"--method ccp {options}" for name, options in variants.items()}
    names = [(lo, me, seed) for seed in arguments.seeds for lo in arguments.losses for me in arguments.methods]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        paths = list(pool.map(lambda name: run_cell(arguments, *name), names))
    print(table(arguments, dict(zip(names, paths, strict=True))))


if __name__ == "__main__":
    main()
