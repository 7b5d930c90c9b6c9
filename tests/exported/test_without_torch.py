"""Exported models are used with few packages, none of which is torch."""

import json
import re
import signal
import subprocess
from pathlib import Path

import httpx
import numpy as np
from packaging.utils import canonicalize_name

from ccpml.data.loading import load_source
from tests.exported.deployment import ROOT, deployed, installed_with, listed, refused_modules
from tests.exported.onnx_models import write_model
from tests.toy import toy_folder


def test_the_listed_packages_do_without_the_training_stack_and_are_pinned():
    names = installed_with(listed())
    assert not names & {"torch", "lightning", "scipy", "scikit-learn", "matplotlib", "onnx", "sympy"}
    assert {"torch", "lightning", "scipy", "sklearn", "matplotlib", "safetensors"} <= refused_modules()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert names <= {canonicalize_name(line.partition("==")[0]) for line in pins}


def test_versions_are_those_of_the_package():
    """What both lists require, they require of the same version."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for each in listed():
        own = set(re.findall(rf'"{each.name}([<>=][^"]*)"', text))
        assert own <= {str(each.specifier)}, each.name


def test_embed_index_search_and_serve(tmp_path: Path):
    photos = toy_folder(tmp_path / "photos", classes=4, per_class=2)
    model = write_model(tmp_path / "model.onnx")
    query = photos / "group0" / "class01" / "1.png"
    output, index = tmp_path / "x.npz", tmp_path / "photos.index"
    command = deployed(
        ["embed", model, f"folder:{photos}", "-o", output],
        ["index", model, photos, "-o", index],
        ["index", model, photos, "-o", index, "--sync", "--dtype", "int8"],
        ["search", index, query, "-k", "2", "--json"],
        ["search", index, "--id", "3", "-k", "1"],
        ["serve", index, "--port", "0"],
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address, printed = None, list[str]()
        while address is None and (line := process.stdout.readline()):
            address = re.search(r"pictures on (http://127\.0\.0\.1:\d+) ", line)
            printed.append(line)
        if address:
            files = {"picture": query.read_bytes()}
            answer = httpx.post(f"{address[1]}/api/search", files=files, data={"k": "1"}, timeout=60).json()
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert answer["hits"][0]["name"] == "1.png"
    document = "".join(printed)
    found, _ = json.JSONDecoder().raw_decode(document[document.index("{") :])
    assert found["queries"][0]["hits"][0]["path"] == str(query)
    with np.load(output) as file:
        assert [Path(name).name for name in file["paths"]] == ["0.png", "1.png"] * 4
        assert file["embeddings"].shape == (8, 4)
        table = load_source(f"folder:{photos}").table
        assert file["paths"].tolist() == [str(path) for path in table.images]


def test_a_missing_package_is_named(tmp_path: Path):
    done = subprocess.run(deployed(["train", "groceries"]), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"ccpml: error: needs \w+, which is not installed; install it, or ccpml again with all that it needs.*\n",
        done.stderr,
    )
