import csv
import json
import re
from pathlib import Path

import pytest

from ccpml.benchmark.ablations import ablation_rows
from ccpml.benchmark.outputs import write_outputs
from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.results import collect_results
from ccpml.benchmark.text_table import TextTable
from tests.benchmark.finished import make_benchmark


def tables_of(text: str) -> dict[str, list[dict[str, str]]]:
    """Read the tables of a Markdown page back."""
    found = {}
    for part in text.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if rows:
            found[part.splitlines()[0]] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def test_all_files_have_the_same_scores(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", ["c2", "ms", "proxy_anchor"], ["plain", "ccp"])
    results = collect_results(made, progress=False)
    files = write_outputs(made, results)
    assert {file.name for file in files} >= {"table.md", "table.csv", "table.tex", "table.json"}
    text = (made.out / "table.md").read_text()
    tables = tables_of(text)
    main = {row[""]: row for row in tables["Test, concatenated 8-D and separated 4-D"]}
    lines = {row["row"]: row for row in csv.DictReader((made.out / "table.csv").read_text().splitlines())}
    content = {row["title"]: row for row in json.loads((made.out / "table.json").read_text())["rows"]}
    assert list(main) == list(lines) == list(content) == ["C2", "C2-CCP", "MS", "MS-CCP", "ProxyAnchor"]
    tex = (made.out / "table.tex").read_text()
    for result in results:
        title = result.row.title
        spread = result.concatenated["map_at_r"]
        assert main[title]["8-D MAP@R"] == f"{100 * spread.mean:.2f} ± {100 * spread.std:.2f}"
        assert lines[title]["concatenated_map_at_r"] == f"{100 * spread.mean:.2f}"
        assert lines[title]["concatenated_map_at_r_std"] == f"{100 * spread.std:.2f}"
        assert content[title]["concatenated"]["map_at_r"]["mean"] == spread.mean
        assert rf"{100 * spread.mean:.2f} $\pm$ {100 * spread.std:.2f}" in tex
        assert main[title]["models"] == "4/4"
    combined = {row[""]: row for row in tables["Test, concatenated 8-D: all combinations of models"]}
    assert combined["C2"]["combinations"] == "4"
    assert "over 2 independent repeats (seeds 0 to 1)" in text
    assert "2^2 = 4 of them" in " ".join(text.split())
    assert "1 skipped (no other image of their class)" in text
    assert "commit abc" in text
    change = tables["Covering radius and distance between classes: end of the first instance → end of training"][0]
    assert change["validation classes radius"] == "0.500 → 0.250 (4 fell)"
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == len(tables)


def test_notes_of_the_runs_are_above_the_tables(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", ["c2", "triplet"], ["plain", "xbm"])
    for cell in made.cells():
        if cell.row.method == "xbm" and (cell.row.loss == "triplet" or cell.fold == 0):
            file = cell.path / "scores.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "notes": ["The memory was never used."]}))
        if (cell.row.loss, cell.row.method) == ("contrastive", "plain"):
            file = cell.path / "scores.json"
            steps = (10 * cell.fold + 1, 10 * cell.fold + 2)  # a run counts once
            notes = [f"The best weights, of step {step}, are of the plain loss." for step in steps]
            file.write_text(json.dumps({**json.loads(file.read_text()), "notes": notes}))
        if cell.row.loss == "triplet":
            (cell.path / "choices.json").write_text(json.dumps({"chosen": [], "notes": ["gray: 3 of 9 images"]}))
    write_outputs(made, collect_results(made, progress=False))
    expected = "C2-XBM (2 of 4 models), Triplet-XBM (4 of 4 models): The memory was never used."
    assert f"- {expected}" in (made.out / "table.md").read_text()
    assert f"% {expected}" in (made.out / "table.tex").read_text()
    assert "Triplet (4 of 4 models), Triplet-XBM (4 of 4 models): gray: 3 of 9" in (made.out / "table.md").read_text()
    merged = "of step 1, are of the plain loss. (the first; others have other numbers)"
    assert f"- C2 (4 of 4 models): The best weights, {merged}" in (made.out / "table.md").read_text()


def test_notes_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_benchmark(tmp_path / "out", ["c2"], ["plain"])
    file = next(made.cells()).path / "choices.json"
    file.write_text("{")
    write_outputs(made, collect_results(made, progress=False))
    (note,) = (line for line in capsys.readouterr().err.splitlines() if "choices.json" in line)
    assert note.startswith(f"note: {file}: damaged (")
    assert note.endswith(", and the table does not show its notes")


def test_comparison_with_the_paper(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", data="cub", folds=4, repeats=1)
    results = collect_results(made, progress=False)
    write_outputs(made, results)
    text = (made.out / "table.md").read_text()
    row = tables_of(text)["The paper's figures (and by how much ours exceed them)"][1]
    ours = 100 * results[1].concatenated["map_at_r"].mean
    assert row[""] == "C2-CCP"
    assert row["16-D MAP@R"] == f"28.02 ({ours - 28.02:+.2f})"
    line = list(csv.DictReader((made.out / "table.csv").read_text().splitlines()))[1]
    assert line["paper_concatenated_map_at_r"] == "28.02"
    assert float(line["minus_paper_concatenated_map_at_r"]) == pytest.approx(ours - 28.02, abs=0.006)
    assert "The settings differ from the paper's: embedding_dim 4" in text
    assert paper_scores(made, results[1].row) == json.loads((made.out / "table.json").read_text())["rows"][1]["paper"]


def test_one_repeat_is_written_without_deviations(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", repeats=1)
    write_outputs(made, collect_results(made, progress=False))
    text = (made.out / "table.md").read_text()
    assert "One repeat (seed 0), so there is no standard deviation." in text
    assert "±" not in text


def test_the_same_cells_give_the_same_tables(tmp_path: Path) -> None:
    one, two = (make_benchmark(tmp_path / name) for name in ("one", "two"))
    for made in (one, two):
        write_outputs(made, collect_results(made, progress=False))
    for name in ("table.md", "table.csv", "table.tex", "table.json"):
        assert (one.out / name).read_bytes() == (two.out / name).read_bytes()


def test_missing_cells_are_listed(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out")
    for cell in made.cells():
        if cell.row.method == "ccp":
            (cell.path / "scores.json").unlink()
    write_outputs(made, collect_results(made, progress=False))
    text = (made.out / "table.md").read_text()
    assert "## Missing" in text
    assert "C2-CCP, repeat 1, fold 1: not finished" in text
    row = tables_of(text)["Test, concatenated 8-D and separated 4-D"][1]
    assert (row["8-D MAP@R"], row["models"]) == ("–", "0/4")


def test_an_ablation_has_tables_of_single_models(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", rows=ablation_rows("rewind", ["c2"]), folds=1, ablation="rewind")
    write_outputs(made, collect_results(made, progress=False))
    text = (made.out / "table.md").read_text()
    assert "ablation of rewind to the instance's best" in text
    assert [row[""] for row in tables_of(text)["Test by the weights of the best validation, 4-D"]] == [
        "C2-CCP (rewind=false)",
        "C2-CCP (rewind=true)",
    ]


def test_partial_data_are_marked(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", methods=["plain"], repeats=1)
    for cell in made.cells():
        file = cell.path / "scores.json"
        file.write_text(file.read_text().replace('"partial": false', '"partial": true'))
    write_outputs(made, collect_results(made, progress=False))
    assert "The data are partial" in (made.out / "table.md").read_text()


def test_special_characters_are_escaped_in_latex() -> None:
    table = TextTable("50 % of a_b & c~d^e\\f {g} #1 $x$ <y>", (("", "漢 ±"),), (("r_1", "-1.25 ± 0.50"),))
    tex = table.tex()
    body = tex[tex.index(r"\caption{") : tex.index(r"\begin{tabular}")]
    assert r"50 \% of a\_b \& c\textasciitilde{}d\textasciicircum{}e\textbackslash{}f \{g\} \#1 \$x\$ $<$y$>$" in body
    assert "U+6F22 $\\pm$" in tex
    assert r"$-$1.25 $\pm$ 0.50" in tex
    assert not re.search(r"[^\x00-\x7f]", tex)
