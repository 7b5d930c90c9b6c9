"""The commands of the damage matrix: those that make files, and those that may read them."""

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from ccpml.cli.common.hints import describe
from tests.toy import QUICK

Commands = dict[str, list[str]]

MADE = {
    "index": "index",
    "export": "model.onnx",
    "clean": "cleaned",
    "export-file": "model.safetensors",
    "export-hub": "hub",
    "index-ensemble": "ensemble",
}
"""Verbs that make what others read, and the name that it gets."""

MADE_MORE = {
    "index-small": "small",
    "export-program": "model.pt2",
    "embed": "embedded.npz",
    "embed-parquet": "embedded.parquet",
    "evaluate-file": "scores.json",
    "compare": "comparison.html",
}
"""The same, which the tests leave out, as they take time."""

MAKERS = ("export-file", "export-hub", "export-program", "train-other", "embed-parquet")
"""Verbs that read what others read too, so that damage is tried before those alone."""

OTHER_DATA = (
    *("train", "train-config", "train-weights", "check", "cache", "clean", "clean-pool", "compare-data", "embed-onnx"),
    *("index", "index-small", "index-onnx", "index-ensemble", "sync", "sync-ensemble", "sync-small", "search-folder"),
    *("index-csv", "index-findings", "search-csv", "serve-feedback", "export"),
)
"""Verbs whose images are given anew, so that one that is missing makes other data, and no damage."""

TABLES = ("cleaned/cleaned.csv", "cleaned/findings.csv")
"""Tables of data, in which other text may be other data."""

_SUFFIXES = {
    **{"export": ".onnx", "export-file": ".safetensors", "export-program": ".pt2", "embed-parquet": ".parquet"},
    **dict.fromkeys(("embed", "embed-onnx", "embed-csv"), ".npz"),
    **{"compare": ".html", "compare-data": ".html", "evaluate-file": ".json", "search-montage": ".png"},
}


def output_of(verb: str) -> str:
    """Return the name of what a verb makes new."""
    return f"out{_SUFFIXES.get(verb, '')}"


def commands(path: Path) -> Commands:
    """Return the commands of all verbs, for files in a folder."""
    run, data = str(path / "run"), f"folder:{path / 'images'}"
    quick = {**QUICK, "max_steps": 2, "validate_every": 1}
    flags = [f"--{name}={value}" for name, value in quick.items()]
    tried = [flag for flag in flags if not flag.startswith(("--proxies_per_class", "--pool_size"))]
    rows = ["--methods=ccp", "--losses=c2", "--out", str(path / "benchmark")]
    search = ["--search=proxies_per_class=1..3", "--trials=1", "--out", str(path / "study")]
    found = {
        "cache": ["data", "cache", data, "--side=28"],
        "check": ["data", "check", data],
        "train": ["train", data, *flags],
        "train-config": ["train", "--config", f"{run}/experiment.yaml", data, *flags],
        "train-weights": ["train", data, *flags, "--weights", f"{run}/checkpoints/best.safetensors"],
        "resume-finished": ["train", "--resume", run],
        "resume": ["train", "--resume", str(path / "stopped")],
        "report": ["report", run],
        "calibrate": ["calibrate", run, "--precision=0.5"],
        "evaluate": ["evaluate", run],
        "evaluate-other": ["evaluate", run, data, "--all-classes"],
        "evaluate-ensemble": ["evaluate", run, "--ensemble", str(path / "other")],
        "evaluate-file": ["evaluate", run, "--clusters"],
        "embed": ["embed", run, data],
        "embed-parquet": ["embed", run, data],
        "benchmark": ["benchmark", data, *flags, *rows],
        "tune": ["tune", data, *tried, *search],
        **_of_models(path, data),
        **_of_indexes(path),
        **_of_tables(path, flags),
    }
    return {verb: [*command, *_output(path, verb, command)] for verb, command in found.items()}


def _of_models(path: Path, data: str) -> Commands:
    """Return the commands of comparisons, cleaned data and exported models."""
    run, other, onnx = str(path / "run"), str(path / "other"), str(path / "model.onnx")
    return {
        "compare": ["compare", run, other],
        "compare-data": ["compare", run, other, "--data", data],
        "clean": ["clean", run, data],
        "clean-pool": ["clean", run, data, "--pool", data],
        "export": ["export", run, "--format=onnx"],
        "export-file": ["export", run, "--format=safetensors"],
        "export-hub": ["export", run, "--format=hub"],
        "export-program": ["export", run, "--format=pt2"],
        "load-file": ["load", str(path / "model.safetensors")],
        "load-folder": ["load", str(path / "hub")],
        "load-program": ["load", str(path / "model.pt2")],
        "embed-onnx": ["embed", onnx, data],
        "embed-program": ["embed", str(path / "model.pt2"), data, "-o", str(path / "out.npz")],
        "evaluate-arrays": ["evaluate", str(path / "embedded.npz")],
    }


def _of_indexes(path: Path) -> Commands:
    """Return the commands of indexes: of one run, of two, and scanned in rows of 8 bits."""
    run, images, picture = str(path / "run"), str(path / "images"), str(path / "images/group0/class00/0.png")
    index, ensemble, small = str(path / "index"), str(path / "ensemble"), str(path / "small")
    onnx, both = str(path / "model.onnx"), ["--ensemble", str(path / "other")]
    return {
        "index": ["index", run, images],
        "index-onnx": ["index", onnx, images],
        "index-ensemble": ["index", run, images, *both],
        "index-small": ["index", run, images, "--dtype=int8"],
        "search": ["search", index, picture, "--csv"],
        "search-id": ["search", index, "--id=1", "--rerank=query-expansion"],
        "search-folder": ["search", index, f"{images}/group0", "--json", "--where=label like 'group0%'"],
        "search-montage": ["search", index, picture],
        "search-approximate": ["search", index, picture, "--csv", "--approximate"],
        "search-onnx": ["search", index, picture, "--csv", "--run", onnx],
        "search-ensemble": ["search", ensemble, picture, "--csv"],
        "search-small": ["search", small, picture, "--csv"],
        "search-half": ["search", small, picture, "--csv", "--dtype=float16"],
        "search-arrays": ["search", index, str(path / "embedded.npz"), str(path / "embedded.parquet")],
        "sync": ["index", run, images, "-o", index, "--sync"],
        "sync-ensemble": ["index", run, images, *both, "-o", ensemble, "--sync"],
        "sync-small": ["index", run, images, "-o", small, "--sync", "--dtype=float16"],
        **{f"verify{end}": ["index", "--verify", name] for end, name in _ends(index, ensemble, small)},
        **{f"compact{end}": ["index", "--compact", name] for end, name in _ends(index, ensemble, small)},
        **{f"serve{end}": ["serve", name, "--port=0"] for end, name in _ends(index, ensemble, small)},
        "serve-onnx": ["serve", index, "--port=0", "--run", onnx],
        "serve-feedback": ["serve", index, "--port=0", "--feedback", "--writable"],
    }


def _ends(index: str, ensemble: str, small: str) -> list[tuple[str, str]]:
    return [("", index), ("-ensemble", ensemble), ("-small", small)]


def _of_tables(path: Path, flags: list[str]) -> Commands:
    """Return the commands that read tables of pictures."""
    run, table, findings = str(path / "run"), f"csv:{path / TABLES[0]}", str(path / TABLES[1])
    return {
        "train-other": ["train", f"folder:{path / 'images'}", *flags, "--seed=1", "--run", str(path / "other")],
        "train-cleaned": ["train", table, *flags],
        "check-csv": ["data", "check", table],
        "evaluate-csv": ["evaluate", run, table, "--all-classes"],
        "embed-csv": ["embed", run, table],
        "index-csv": ["index", run, str(path / TABLES[0])],
        "index-findings": ["index", run, findings],
        "search-csv": ["search", str(path / "index"), str(path / TABLES[0])],
    }


def _output(path: Path, verb: str, command: list[str]) -> list[str]:
    """Return the option that names what a verb makes new, if it makes something and does not name it yet."""
    out = str(path / output_of(verb))
    if command[0] == "train":
        return [] if {"--resume", "--run"} & {*command} else ["--run", out]
    if verb == "search-montage":
        return ["--montage", out]
    makes = command[0] in {"compare", "clean", "export", "embed"} or verb == "evaluate-file"
    makes |= command[0] == "index" and not {"--verify", "--compact"} & {*command}
    return ["-o", out] if makes and "-o" not in command else []


def load(name: str) -> int:
    """Load an exported model as a program would, and print a sum that depends on all of its weights."""
    from ccpml import EmbeddingModel

    try:
        state = EmbeddingModel.from_pretrained(name).state_dict()
    except (OSError, ValueError) as error:
        print(describe(error))
        return 1
    print([value.double().sum().item() for value in state.values()])
    return 0


def ask(app: Any, listener: Any, settings: Any) -> None:
    """Make the requests of a visitor of a service, in place of serving it; print answers without times."""
    from fastapi.testclient import TestClient

    with TestClient(app, base_url="http://127.0.0.1") as client:
        ready, info = client.get("/health"), client.get("/api/info")
        found = client.post("/api/search", json={"id": 1, "k": 3})
        content = io.BytesIO()
        Image.new("L", (28, 28), 99).save(content, "PNG")
        alike = client.post("/api/search", files={"picture": content.getvalue()}, data={"k": "3"})
        explained = client.post("/api/explain", files={"picture": content.getvalue()}, data={"id": "1"})
        picture = client.get("/api/items/1/thumbnail")
        answers = [ready, info, found, alike, explained, picture]
        if settings.feedback:
            verdict = {"query_id": 1, "id": 2, "verdict": "right"}
            answers += [client.post("/api/feedback", json=verdict) for _ in range(2)]
        for answer in answers:
            content = "" if answer is picture and answer.is_success else answer.text
            print(os.path.basename(str(answer.url)), answer.status_code, _without_changing(content))  # noqa: PTH119


def _without_changing(content: str) -> str:
    import re

    return re.sub(r'"(took_ms|seconds|took|time)":[\d.e-]+', "", content)
