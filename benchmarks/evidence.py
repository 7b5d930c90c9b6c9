"""Does CCP help? Train every cell of losses × methods × seeds with one budget, and print the table.

    python -m benchmarks.evidence glyphs --losses contrastive,multi_similarity
    python -m benchmarks.evidence folder:images_background_small1 --options "--test_classes Korean/*"

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

METHODS = ("plain", "ccp")


def run_cell(arguments: argparse.Namespace, loss: str, method: str, seed: int) -> Path:
    """Train one cell, unless it is finished."""
    path = arguments.out / f"{loss}-{method}-seed{seed}"
    if (path / "scores.json").is_file():
        return path
    command = [sys.executable, "-m", "ccpml.cli", "train"]
    if (path / "experiment.yaml").is_file():
        command += ["--resume", str(path)]
    else:
        command += [arguments.data, "--loss", loss, "--method", method, "--seed", str(seed), "--run", str(path)]
        command += ["--threads", "1", "--workers", "0", "--max_steps", str(arguments.steps)]
        command += shlex.split(arguments.options)
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
    """Give the table in Markdown, a row for each loss and method."""
    columns = "MAP@R | P@1 | P@R | MAP@R over plain, by seed | wins | projections | val. radius | val. distance"
    lines = [f"| loss | method | {columns} |", "|---" * 10 + "|"]
    for loss in arguments.losses:
        scores = {
            method: [json.loads((cells[loss, method, seed] / "scores.json").read_text()) for seed in arguments.seeds]
            for method in METHODS
        }
        for method in METHODS:
            test = [score["test"] for score in scores[method]]
            gains = [
                a["test"]["map_at_r"] - b["test"]["map_at_r"]
                for a, b in zip(scores[method], scores["plain"], strict=True)
            ]
            paths = [cells[loss, method, seed] for seed in arguments.seeds]
            row = [
                loss,
                method,
                *(spread([t[name] for t in test]) for name in ("map_at_r", "precision_at_1", "r_precision")),
            ]
            wins = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            row += (
                ["", "", ""]
                if method == "plain"
                else [spread(gains), wins, ", ".join(str(s["instances"]) for s in scores[method])]
            )
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
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    arguments.losses = arguments.losses.split(",")
    arguments.seeds = [int(seed) for seed in arguments.seeds.split(",")]
    names = [(loss, method, seed) for seed in arguments.seeds for loss in arguments.losses for method in METHODS]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        paths = list(pool.map(lambda name: run_cell(arguments, *name), names))
    print(table(arguments, dict(zip(names, paths, strict=True))))


if __name__ == "__main__":
    main()
