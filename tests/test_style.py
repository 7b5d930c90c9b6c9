"""What a machine can check of the project's style."""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
BRITISH = re.compile(  # aria-labelledby is an attribute of HTML
    r"centre|colour|grey|neighbour|(normal|optim|initial|summar)is(e|ed|es|er|ing|ation)(?![a-z])|labelled(?!by)"
)
WEAK_VERBS = {"Give", "Say", "Tell", "Take", "Let", "Of"}


def test_docstrings_begin_with_what_the_function_does():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").partition(" ")[0]
                if first in WEAK_VERBS:
                    found.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}: {first} ...")
    assert found == []


def test_names_comments_and_strings_use_american_spelling():
    found = []
    for path in FILES:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type in {tokenize.NAME, tokenize.COMMENT, tokenize.STRING} and path != Path(__file__):
                match = BRITISH.search(token.string.lower())
                found += [f"{path.relative_to(ROOT)}:{token.start[0]}: {match[0]}"] if match else []
    assert found == []


def test_paths_in_commands_that_are_shown_are_quoted():
    """`ccpml index <run> -o {path}` fails where a path has a space; `shlex` quotes it."""
    verbs = "train|resume|evaluate|embed|report|compare|index|search|serve|calibrate|clean|export|data|tune|benchmark"
    command, found = re.compile(rf"ccpml (?:{verbs}) [^\"'`]*\{{(?!shlex\.|verb\}}|name\}})"), []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()}"] if command.search(line) else []
    assert found == []


def test_files_and_folders_stay_small():
    assert [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
    assert [folder for folder in {path.parent for path in SOURCES} if len(list(folder.glob("*.py"))) > 17] == []
