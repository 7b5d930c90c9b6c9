"""The sentences of errors: what happened, and a hint about what to do."""

import re

from ccpml.progress import printable
from ccpml.system_errors import SHARED_MEMORY, is_out_of_memory, message_of, shortage_in_words

HINTS = {
    "BadImageError": "restore or repair it",
    "BenchmarkExistsError": (
        "choose another --out, restore what is missing, make a link to data that have moved, or pass the settings that "
        "it started with"
    ),
    "BenchmarkNotFoundError": "pass --data-root, or download it with `ccpml data fetch`",
    "CacheError": "`ccpml data cache` builds it again",
    "DataChangedError": "`ccpml evaluate <run> <data>` scores other data",
    "IncompleteBenchmarkError": "`ccpml data check` lists all differences, --allow-partial accepts them",
    "LowRecallError": "leave out --approximate, or pass a lower --min-recall",
    "NoCommonClassesError": "--data <data> compares the runs on other data",
    "PathTakenError": "choose another directory with --run",
    "RunExistsError": "resume it with `ccpml train --resume <run>`, or choose another directory with --run",
    "SeenClassesError": "--all-classes scores them",
    "SkippableImagesError": "--skip-bad-images leaves them out",
    "StudyExistsError": "choose another --out or --study, or make a link to data that have moved",
    "UnknownDataRootError": "or pass --data-root",
    "UnfinishedRunError": "resume it with `ccpml train --resume <run>`",
}
"""Hints by the name of the error's class, so that no library is imported for them."""

_USAGE = frozenset({"UsageError", "FileExistsError", "MissingExtraError", "UnknownDataRootError"})
"""Names of errors that are of the command line, rather than of the work."""


def is_usage_error(error: BaseException) -> bool:
    """Whether the command line is wrong: exit code 2."""
    return any(kind.__name__ in _USAGE for kind in type(error).__mro__)


def describe(error: BaseException) -> str:
    """Return the sentence of an error, with its hint and its notes; then its list, if it has one."""
    text, listing = _text(error), list[str]()
    if hasattr(error, "bad"):  # images: a sentence that ends in a colon, and a line for each
        text, *listing = text.splitlines()
    text = " ".join(text.removesuffix(":" if listing else "").split())
    text = printable(_LONG.sub(lambda word: f"{word[0][:100]}…{word[0][-100:]}", text)) or type(error).__name__
    sentence = "; ".join([f"{text}{hint_for(error)}", *getattr(error, "__notes__", ())])
    return "\n".join([f"{sentence}:", *map(printable, listing)]) if listing else sentence


def hint_for(error: BaseException) -> str:
    """Return the hint for an error as the end of its sentence; empty if there is none."""
    if "; " in getattr(error, "reason", ""):  # of an image: it says what to do
        return ""
    hints = (HINTS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in HINTS)
    return next((f"; {hint}" for hint in hints), "")


def was_killed(error: BaseException) -> bool:
    """Whether an error says that a process which reads images, or a rank, has been killed."""
    return isinstance(error, RuntimeError) and str(error).startswith((_WORKER, "training stopped: rank"))


def _text(error: BaseException) -> str:
    """Return the message of an error; those of the system and of allocators are put into words."""
    text = message_of(error)
    if isinstance(error, ModuleNotFoundError) and text == f"No module named {error.name!r}":
        needs = f"needs {error.name}, which is not installed; install it, or ccpml again with all that it needs"
        return f"{needs}{_WITHOUT_TORCH if error.name == 'torch' else ''}"
    if "Too many open files" in text and not isinstance(error, ValueError | OSError):  # torch advises programmers
        return "too many open files; allow more (ulimit -n), or set --workers=0"
    if not isinstance(error, ValueError | OSError) and SHARED_MEMORY.search(text):
        return "the memory that processes share is full (/dev/shm); allow more, or set --workers=0"
    if was_killed(error) and text.startswith(_WORKER):
        return "a process that reads images was killed, as the system does when memory runs out; free some memory"
    if shortage := shortage_in_words(error):
        return f"{shortage}; {_SMALLER}" if is_out_of_memory(error) else shortage
    return text


_LONG = re.compile(r"[^\s/]{300,}")
"""A word that is longer than a name in a path can be."""

_WORKER = "DataLoader worker (pid"  # so torch begins
_WITHOUT_TORCH = "; embed, index, search and serve need no torch with an ONNX file in place of the run"
_SMALLER = "free some memory, or choose a smaller image_size, batch, embedding_dim or number of proxies"
