"""The command line: one module per verb, imported when the verb is called."""

import sys
from collections.abc import Sequence
from importlib import import_module

from ccpml.cli.hints import hint_for
from ccpml.cli.options import UsageError
from ccpml.data_name import known_names

__all__ = ["VERBS", "main"]

_HELP = f"""usage: ccpml <verb> ... [--debug]

Deep metric learning with chance constraints: train embeddings that find images of classes not seen in training.

verbs:
  train      train on some classes, test on others, write a run directory with a report
  evaluate   score a run on its test classes or on other data
  embed      write a run's embeddings of some data to an .npz file
  report     write the report of a run again
  benchmark  compare methods and losses under a fair protocol, or run an ablation: tables and figures
  tune       search settings on the validation classes
  data       check images, download a benchmark, or cache images in a smaller size

data are {known_names()}.
groceries are photographs that come with ccpml; glyphs are drawn at first use (about half a minute) and cached;
benchmarks are below --data-root or $CCPML_DATA; each folder below <path> that holds images is a class;
a CSV file has the columns path,label[,split[,role]].

  ccpml train groceries                       the demonstration
  ccpml train folder:photos --loss triplet    your own images
  ccpml benchmark cub --methods plain,ccp     the paper's table (needs the CUB images)
  ccpml <verb> --help                         all options of a verb
  --debug                                     show the traceback of an error
"""

VERBS = ("train", "evaluate", "embed", "report", "benchmark", "tune", "data")
"""Each verb is a module of this package: ``parse`` reads its arguments, ``run`` reads and obeys them."""


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
            raise UsageError(f"verb: expected one of {', '.join(VERBS)}, got {verb}")
        code: int = import_module(f"ccpml.cli.{verb}").run(arguments[1:])
        return code
    except KeyboardInterrupt:
        print("ccpml: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the one place where errors become sentences
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"ccpml: error: {text}{hint_for(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | FileExistsError) else 1
