"""The command line: verbs, each of which imports what it needs when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module

from ccpml.cli.options import UsageError

__all__ = ["main"]

_HELP = """usage: ccpml <verb> ... [--debug]

Deep metric learning with chance constraints: train embeddings that find images of things never seen in training.

verbs:
  train      train on some classes, test on others, leave a run directory with a report
  evaluate   score a run on its test classes or on other data
  embed      write a run's embeddings of some data to an .npz file
  report     write the report of a run again
  benchmark  compare methods and losses under the fair protocol, or make an ablation: tables and figures
  tune       search settings on the validation classes
  data       check a benchmark's files, fetch them, or cache its images small

data are glyphs (they come with the package), cub, cars196, sop or inshop (below --data-root or $CCPML_DATA),
folder:<path> (a class is a leaf folder), or csv:<file> (columns path,label[,split[,role]]).

  ccpml train glyphs                          the demonstration
  ccpml train folder:photos --loss triplet    your own images
  ccpml benchmark cub --methods plain,ccp     the paper's table, where the images are at hand
  ccpml <verb> --help                         all options of a verb
  --debug                                     show the traceback of an error
"""

VERBS = {
    "train": "train",
    "evaluate": "apply",
    "embed": "apply",
    "report": "apply",
    "benchmark": "benchmark",
    "tune": "tune",
    "data": "data",
}
"""Each verb is a function of its name in a module of this package."""

_HINTS = {
    "BenchmarkNotFoundError": "pass --data-root, or download it with `ccpml data fetch`",
    "CacheError": "`ccpml data cache` builds it again",
    "IncompleteBenchmarkError": "`ccpml data check` lists all differences, --allow-partial accepts them",
    "BenchmarkExistsError": "choose another --out, or pass the settings that it started with",
    "StudyExistsError": "choose another --out or --study",
    "SkippableImagesError": "--skip-bad-images leaves them out",
}
"""What to do on the command line about the errors of the libraries, by the name of their class."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from ccpml import __version__

        print(f"ccpml {__version__}")
        return 0
    try:
        verb = arguments[0]
        if verb not in VERBS:
            raise UsageError(f"unknown verb {verb!r}: expected one of {', '.join(VERBS)}")
        code: int = getattr(import_module(f"ccpml.cli.{VERBS[verb]}"), verb)(arguments[1:])
        return code
    except KeyboardInterrupt:
        print("ccpml: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the one place where errors become sentences
        if debug:
            raise
        usage = isinstance(error, UsageError | FileExistsError)
        text = " ".join(str(error).split()) or type(error).__name__
        if hint := _HINTS.get(type(error).__name__):
            text = f"{text}; {hint}"
        print(f"ccpml: error: {text}", file=sys.stderr)
        return 2 if usage else 1
