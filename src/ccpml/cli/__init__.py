"""The command line: one module per verb, imported when the verb is called."""

import sys

try:
    from ccpml.interrupts import exit_at_signals, exit_code, interruption, raise_at_signals
except KeyboardInterrupt:
    raise SystemExit(130) from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VERBS", "main"]

_HELP = """usage: ccpml <verb> ... [--debug]

Deep metric learning with chance constraints: train embeddings that find images of classes not seen in training.

verbs:
  train      train on some classes, test on others, write a run directory with a report
  evaluate   score a run on its test classes or on other data
  embed      write a run's embeddings of some data to an .npz or Parquet file
  report     write the report of a run again
  compare    compare runs on classes that none has seen: paired differences, queries won and lost
  calibrate  find distances within which a run's answers are right with a promised probability
  export     write a run as an ONNX file, for torch.export, as safetensors or as a folder for the Hugging Face hub
  index      make pictures searchable with a run
  search     find the pictures of an index that are most like others
  serve      answer searches of an index over HTTP, with a page
  benchmark  compare methods and losses under a fair protocol, or run an ablation: tables and figures
  tune       search settings on the validation classes
  clean      find copies, leaks, probable label errors and outliers in data; write what stays
  data       check images, download a benchmark, or cache images in a smaller size

data are {known_names}.
groceries are photographs that come with ccpml; glyphs are drawn at first use (about half a minute) and cached;
benchmarks are below --data-root or $CCPML_DATA; each folder below <path> that holds images is a class;
a CSV file has the columns path,label[,split[,role]].

  ccpml train groceries                       the demonstration
  ccpml train folder:photos --loss triplet    your own images
  ccpml benchmark cub --methods plain,ccp     the paper's table (needs the CUB images)
  ccpml <verb> --help                         all options of a verb
  --debug                                     show the traceback of an error
"""

VERBS = (
    "train",
    "evaluate",
    "embed",
    "report",
    "compare",
    "calibrate",
    "export",
    "index",
    "search",
    "serve",
    "benchmark",
    "tune",
    "clean",
    "data",
)
"""Each verb is a module of this package: ``parse`` reads its arguments, ``run`` reads and obeys them."""


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failure, 2 for wrong usage, 128 + its number for a signal.

    Without ``argv``, this is the process of the command line, and its signals and streams are set up.
    """
    if argv is not None:
        return _run(list(argv))
    try:
        raise_at_signals()
        import logging

        from ccpml.cli.terminal import BROKEN_PIPE, is_broken_pipe, prepare_streams, prepare_warnings

        prepare_streams()
        prepare_warnings()
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # notes about a home that cannot be written
        code = _run(sys.argv[1:])
    except SystemExit as stop:  # after --help
        code = int(stop.code or 0)
    except KeyboardInterrupt as interrupt:
        code = exit_code(interrupt)
    except BrokenPipeError:
        if not is_broken_pipe():
            raise
        code = BROKEN_PIPE  # quietly
    exit_at_signals()
    from ccpml.cli.terminal import flush_streams  # here, where Ctrl-C ends the import too

    return flush_streams(code)


def _run(arguments: list[str]) -> int:
    from ccpml.cli.common.hints import describe, is_usage_error
    from ccpml.cli.terminal import is_broken_pipe

    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _run_verb(arguments)
    except KeyboardInterrupt as interrupt:
        return _report_interrupt(interrupt)
    except Exception as error:  # the one place where errors become sentences
        if cause := interruption():
            return _report_interrupt(cause)
        if debug or (isinstance(error, BrokenPipeError) and is_broken_pipe()):
            raise
        print(f"ccpml: error: {describe(error)}", file=sys.stderr)
        return 2 if is_usage_error(error) else 1


def _report_interrupt(interrupt: KeyboardInterrupt) -> int:
    print(f"ccpml: {str(interrupt) or 'interrupted'}", file=sys.stderr)
    return exit_code(interrupt)


def _run_verb(arguments: list[str]) -> int:
    from ccpml.cli.common.options import UsageError

    if not arguments or arguments[0] in {"-h", "--help"}:
        from ccpml.data_name import known_names

        print(_HELP.format(known_names=known_names()), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from ccpml import __version__

        print(f"ccpml {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        from difflib import get_close_matches

        close = get_close_matches(verb.lower(), VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see ccpml --help"
        raise UsageError(f"verb: expected one of {', '.join(VERBS)}, got {verb or 'nothing'}; {hint}")
    from importlib import import_module
    from pathlib import Path

    try:
        Path.cwd()
    except FileNotFoundError as error:  # torch would end the process
        raise UsageError("current folder: was removed; change to another one") from error
    code: int = import_module(f"ccpml.cli.{verb}").run(arguments[1:])
    return code
