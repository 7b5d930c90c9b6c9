"""Make the reduced golden vectors from the full set: ``python tests/golden/reduce.py FULL_FOLDER``."""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
NORMALIZED_ROWS = [0, 8, *range(16, 24)]  # norms of 0.35 and 1.4, then the edge cases


def reduced(name: str, key: str, array: np.ndarray) -> np.ndarray | None:
    """Return the part of an array that is kept, None for nothing."""
    if name == "losses" and "/grad_" in key:
        return array[:, ::32]
    if name == "normalize" and key.startswith("d128/"):
        return array[NORMALIZED_ROWS]
    if name == "k_center" and key == "cases":
        return np.array([case for case in array if not case.startswith("C20_")])
    if name == "k_center" and key.startswith("C20_"):
        return None
    if name == "k_center" and not key.endswith("/k"):
        return array[: 1 if "_d128_" in key else 3]  # classes do not depend on each other
    return array


def main(full: Path) -> None:
    for name in ("k_center", "losses", "metrics", "normalize", "proximal"):
        with np.load(full / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: reduced(name, key, file[key]) for key in file.files}
        kept = {key: array for key, array in arrays.items() if array is not None}
        np.savez_compressed(HERE / f"{name}.npz", allow_pickle=False, **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
