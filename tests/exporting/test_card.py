"""The model card says what the certificate promises, and nothing else."""

from typing import Any

import pytest

from ccpml.exported import Description
from ccpml.exporting.card import model_card

CARD = {
    "run": "mugs",
    "data": "groceries",
    "method": "ccp",
    "loss": "triplet",
    "initial_weights": "none",
    "license": "mit",
    "exported_with": {"ccpml": "0.1.0"},
}


def guarantee(promises: list[dict[str, Any]], ladder: list[dict[str, Any]]) -> str:
    certificate = {"answers": 1, "confidence": 0.95, "classes": 43, "promises": promises, "ladder": ladder}
    description = Description("0" * 64, 4, 3, 28, 28, {"backbone": "small_conv"}, {}, certificate, CARD)
    text = model_card(description, "hub", "mugs", 0.0, "13 images")
    return text.partition("## Guarantee\n\n")[2].partition("\n\n## Limits")[0]


def row(precision: float, distance: float | None) -> dict[str, Any]:
    return {"precision": precision, "distance": distance}


@pytest.mark.parametrize(
    ("promises", "ladder", "rows", "end"),
    [
        ([row(0.8, 0.5)], [row(0.5, 2.0)], ["| 0.8 | 0.500 |"], ""),
        (
            [row(0.8, 0.5), row(0.95, None)],
            [],
            ["| 0.8 | 0.500 |"],
            "Asked for in the calibration, and not promised: 0.95.",
        ),
        (
            [row(0.8, None), row(0.9, None)],
            [row(0.5, 2.0), row(0.75, 1.25), row(0.76, None)],
            ["| 0.75 | 1.250 |"],
            "Asked for in the calibration, and not promised: 0.8, 0.9.",
        ),
    ],
)
def test_the_guarantee_is_what_was_asked_for_or_the_highest_precision(
    promises: list[dict[str, Any]], ladder: list[dict[str, Any]], rows: list[str], end: str
) -> None:
    first, table, *rest = guarantee(promises, ladder).split("\n\n")
    assert first.startswith("Within the distance, the nearest image is right with the promised precision.")
    assert table.splitlines()[2:] == rows
    assert rest == [end] * bool(end)


def test_without_any_promise_there_is_no_guarantee() -> None:
    assert guarantee([row(0.8, None)], [row(0.5, None)]) == (
        "None: the run was calibrated, and no precision could be promised."
    )
