"""The model card: what a model is for, how well it does, and where it ends."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from ccpml.exported.description import Description
from ccpml.exporting.usage import usage
from ccpml.numbers import counted

__all__ = ["model_card"]

_TITLES: Final = {
    "map_at_r": "MAP@R",
    "precision_at_1": "P@1",
    "r_precision": "R-precision",
    "recall_at_2": "Recall@2",
    "recall_at_4": "Recall@4",
    "recall_at_8": "Recall@8",
}
_TASK: Final = "image-feature-extraction"
_MANY_CLASSES: Final = 100
_ENOUGH_TESTS: Final = 20  # with fewer classes, bootstrap intervals are clearly too narrow


def model_card(description: Description, file_format: str, name: str, difference: float, checked_on: str) -> str:
    """Return the model card in Markdown; that of a folder for the hub begins with its metadata in YAML.

    Args:
        description: What the model says about itself.
        file_format: Format of the export.
        name: Name of the file or folder, or of the repository on the hub.
        difference: Largest difference to the embeddings of the run.
        checked_on: Images that it was measured on, in words.
    """
    head = f"---\n{_metadata(description)}---\n\n" if file_format == "hub" else ""
    parts = [
        f"# {description.card['run']}",
        _summary(description),
        "## Use it",
        usage(description, file_format, name),
        "## Data and scores",
        *_scores(description.card),
        "## Guarantee",
        *_guarantee(description.certificate),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(description)),
        "## Origin",
        _origin(description, difference, checked_on),
    ]
    return head + "\n\n".join(parts) + "\n"


def _metadata(description: Description) -> str:
    """Return the metadata that the hub reads."""
    card = description.card
    kind = card["data"].partition(":")[0]
    content: dict[str, Any] = {
        "license": card["license"].lower(),
        "library_name": "ccpml",
        "pipeline_tag": _TASK,
        "tags": ["ccpml", "image-retrieval", "deep-metric-learning", "image-embedding"],
    }
    if "scores" in card:
        metrics = [
            {"type": key, "name": title, "value": round(card["scores"][key], 4), **_arguments(card, key)}
            for key, title in _TITLES.items()
            if _known(card["scores"].get(key))
        ]
        dataset = {"type": kind, "name": card["data"], "split": "test"}
        task = {"type": _TASK, "name": "Image retrieval of unseen classes"}
        result = {"task": task, "dataset": dataset, "metrics": metrics}
        content["model-index"] = [{"name": card["run"], "results": [result]}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _arguments(card: Mapping[str, Any], key: str) -> dict[str, Any]:
    interval = card.get("intervals", {}).get(key)
    return {"args": {"interval_95": [round(end, 4) for end in interval]}} if interval else {}


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _summary(description: Description) -> str:
    card, network = description.card, description.network
    what = "a gray image" if description.channels == 1 else "an RGB image"
    how = {"ccp": "chance-constrained proxies (CCP)", "xbm": "cross-batch memory (XBM)"}.get(card["method"], "")
    return (
        f"An embedding for image retrieval: it maps {what} to {description.embedding_dim} numbers, so that images of "
        f"one class are near each other, also of classes that it was not trained on. Network: {network['backbone']}. "
        f"Trained by ccpml on {card['data']} with the loss {card['loss']}"
        f"{f' and {how}' if how else ''}."
    )


def _scores(card: Mapping[str, Any]) -> Iterator[str]:
    if "scores" not in card:
        yield "The run is unfinished: these are its best weights so far, and no test score is known."
        return
    rows = [f"| {name} | {of['classes']:,} | {of['images']:,} |" for name, of in card["splits"].items()]
    yield "\n".join(["| split | classes | images |", "|---|---|---|", *rows])
    yield "No class is in two splits: the test classes were seen neither in training nor in the choice of weights."
    rows = [
        f"| {title} | {100 * card['scores'][key]:.2f} | {_interval(card, key)} |"
        for key, title in _TITLES.items()
        if _known(card["scores"].get(key))
    ]
    yield "\n".join(["| test score | % | 95 % interval over classes |", "|---|---|---|", *rows])
    if "features" in card:
        before = card["features"]
        yield (
            f"For comparison, the {before['dimensions']:,} features of the network before training: "
            f"MAP@R {100 * before['map_at_r']:.2f}, P@1 {100 * before['precision_at_1']:.2f}."
        )


def _interval(card: Mapping[str, Any], key: str) -> str:
    interval = card.get("intervals", {}).get(key)
    return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else "–"


def _guarantee(certificate: Mapping[str, Any] | None) -> Iterator[str]:
    if certificate is None:
        yield "None: the run was not calibrated (`ccpml calibrate`), and no distance promises a precision."
        return
    answers, count = certificate["answers"], certificate.get("classes")
    what = "the nearest image" if answers == 1 else f"an image among the {answers} nearest"
    origin = f" ({counted(count, 'class')} of {certificate.get('data')})" if count else ""
    kept = [row for row in certificate["promises"] if row["distance"] is not None]
    others = [row for row in certificate.get("ladder", []) if row["distance"] is not None]
    kept = kept or sorted(others, key=lambda row: row["precision"])[-1:]  # the highest that can be promised
    rows = [f"| {row['precision']:g} | {row['distance']:.3f} |" for row in kept]
    if not rows:
        yield "None: the run was calibrated, and no precision could be promised."
        return
    yield (
        f"Within the distance, {what} is right with the promised precision. Each promise holds with confidence "
        f"{certificate['confidence']:g}, for classes drawn like those of the calibration{origin}, and for no others."
    )
    yield "\n".join(["| precision | distance |", "|---|---|", *rows])
    missed = [f"{row['precision']:g}" for row in certificate["promises"] if row["distance"] is None]
    if missed:
        yield f"Asked for in the calibration, and not promised: {', '.join(missed)}."


def _limits(description: Description) -> Iterator[str]:
    card, side = description.card, description.size
    splits = card.get("splits", {})
    train, test = splits.get("train"), splits.get("test")
    if train:
        few = ", which is few" if train["classes"] < _MANY_CLASSES else ""
        yield (
            f"Trained on {counted(train['classes'], 'class')}{few}, {counted(train['images'], 'image')}. "
            "How well it does on images of "
            "another kind was not measured."
        )
    if test:
        yield (
            f"The scores are those of a search among {counted(test['images'], 'image')}; "
            "among more, there are more to confuse."
        )
        if test["classes"] < _ENOUGH_TESTS:
            yield f"Tested on {counted(test['classes'], 'class')}: the intervals are too narrow for so few."
    yield from card.get("notes", [])
    if card.get("partial"):
        yield "Trained on an incomplete copy of the data."
    yield f"It sees {side} × {side} pixels of the middle of an image; what is small in the picture is lost."
    yield (
        "Embeddings have a Euclidean length of 1 at most, and are compared by their Euclidean distance. Those of "
        "another model, with another fingerprint, cannot be compared with them."
    )


def _origin(description: Description, difference: float, checked_on: str) -> str:
    card = description.card
    trained = card.get("versions", {})
    versions = ", ".join(f"{name} {trained[name]}" for name in ("ccpml", "torch", "python") if name in trained)
    now = ", ".join(f"{name} {number}" for name, number in card["exported_with"].items())
    start = {"none": "random weights", "imagenet": "published ImageNet weights, whose terms apply too"}
    weights = start.get(card["initial_weights"], f"the weights {card['initial_weights']}, whose terms apply too")
    license_id = card["license"]
    lines = [
        f"License: {license_id}" + (" (none was given)" if license_id == "unknown" else ""),
        f"Started from {weights}",
        *([f"Trained with {versions}, {card['steps']:,} steps, seed {card['seed']}"] if versions else []),
        f"Exported with {now}; differs from the run by {difference:.1e} at most, on {checked_on}",
        f"Fingerprint of the run: `{description.fingerprint}`",
    ]
    return "\n".join(f"- {line}" for line in lines)
