"""The public names: importable, documented with an example that runs, and listed in the reference."""

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import ccpml
from tests.exported.onnx_models import describe, write_model
from tests.toy import quick_settings, toy_folder

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"


@pytest.mark.parametrize("name", ccpml.__all__)
def test_every_public_name_can_be_imported(name):
    value = getattr(ccpml, name)
    assert value.__doc__
    assert value.__name__ == name
    assert name in dir(ccpml)


OF_RUNS = [
    "train",
    "resume",
    "load_run",
    "Run",
    "Index",
    "export_run",
    "ExportedModel",
]  # in this order; their examples need data and a trained run
NAMESPACE = {"torch": torch, "Path": Path, **{name: getattr(ccpml, name) for name in ccpml.__all__}}


@pytest.mark.parametrize("name", sorted({*ccpml.__all__} - {*OF_RUNS}))
def test_example_runs(name):
    [test] = doctest.DocTestFinder(recurse=False).find(getattr(ccpml, name), name, globs=dict(NAMESPACE))
    report = []
    assert test.examples
    assert not doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed, "".join(report)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_examples_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_folder(tmp_path / "photos")
    for name in ("mug.jpg", "cup.jpg", "query.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "photos/group0/class00/0.png").read_bytes())
    write_model(tmp_path / "photos.onnx", describe(embedding_dim=8))
    namespace = {**NAMESPACE, "Settings": quick_settings}
    for name in OF_RUNS:
        [code] = re.findall(r"```python\n(.*?)```", inspect.getdoc(getattr(ccpml, name)), re.DOTALL)
        exec(compile(dedent(code), name, "exec"), namespace)
    assert namespace["embeddings"].shape == (2, 8)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ccpml' has no attribute 'Nonsense'"):
        _ = ccpml.Nonsense


def test_the_reference_lists_every_public_name():
    listed = re.findall(r"^::: ccpml\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(ccpml.__all__)


def test_import_loads_no_large_library():
    code = "import sys, ccpml; print({'torch', 'lightning', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
