import subprocess
import sys
from pathlib import Path

import pytest

from ccpml.data_name import BENCHMARKS, DataName


@pytest.mark.parametrize("text", ["glyphs", *BENCHMARKS, "folder:photos/birds", "csv:a:b.csv"])
def test_names_are_written_as_they_were_parsed(text: str) -> None:
    assert str(DataName.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "glyph", "glyphs:", "glyphs:x", "folder", "folder:", "csv:", "zip:x", "cub:", "CUB"]
)
def test_unknown_names(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}': expected groceries, glyphs, cub, .*, folder:<path> or csv:<file>"):
        DataName.parse(text)


def test_names_derived_from_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    labels = {
        "glyphs": "glyphs",
        "folder:~/my photos": "my-photos",
        "csv:x/list.v2.csv": "list.v2",
        "folder:.": tmp_path.name,
    }
    assert {text: DataName.parse(text).label for text in labels} == labels
    assert DataName.parse("folder:~/a").resolved() == DataName("folder", str(tmp_path / "a"))
    assert DataName.parse("cub").resolved() == DataName("cub")
    assert [DataName.parse(t).file_stem for t in ("cub", "folder:x/y", "csv:x/y.csv")] == ["cub", "folder", "csv-y.csv"]


def test_the_module_imports_neither_torch_nor_numpy() -> None:
    script = "import ccpml.data_name, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
