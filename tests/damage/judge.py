"""What a verb may do that meets a damaged file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.damage.commands import OTHER_DATA, TABLES
from tests.damage.states import SEEN_IN_LISTINGS

LOCKS: Final = re.compile(r"\.lock$|\.locks/")

WRITTEN: Final = re.compile(
    rf"{LOCKS.pattern}|tfevents|/cells/[^/]+/[^/]+\.(log|json)$|\.ccpml-check/|/study\.db"
    r"|^out/checkpoints/last\.ckpt$|/index\.sqlite-(shm|wal)$|/feedback/|/verdicts"
)
"""Files whose content differs between two runs of a command."""

OUTPUTS: Final = {
    "report": re.compile(r"^run/(report\.html|pictures/)"),
    "calibrate": re.compile(r"^run/(certificate\.json|report\.html|pictures/)"),
    "resume-finished": re.compile(r"^run/(report\.html|pictures/)"),
    "resume": re.compile(r"^stopped/(metrics\.csv|scores\.json|report\.html|pictures/)"),
    "benchmark": re.compile(r"^benchmark/"),
    "tune": re.compile(r"^study/"),
    "search-montage": re.compile(r"^out\.png$"),
    "cache": re.compile(r"^images/\.ccpml-cache/"),
    "sync": re.compile(r"^index/"),
    "sync-ensemble": re.compile(r"^ensemble/"),
    "sync-small": re.compile(r"^small/"),
}
"""What a verb writes also when it names a damaged file: its tables and pages say so, or it repairs what it finds."""


_PLAIN: Final = r"expected column names|, line \d+|\.png: (not an image|cannot be (decoded|opened)|the file)"
"""Messages that say what to do without a second sentence: the line of a table, and the pictures of a query."""

_OF_LIBRARIES: Final = r"weights_only|pickle|Errno|Error:|has no attribute|must be str|\bNoneType\b|codec can't"
"""Words that are none of ours."""

_LISTS: Final = re.compile(r"^out/(findings\.csv|unreadable\.txt)$")
"""Lists of pictures that a verb writes."""


class Outcome(NamedTuple):
    """What a verb does."""

    code: int
    """Exit code, below 0 if there is none."""
    text: str
    """What it prints, and the lists of pictures that it writes."""
    changed: list[str]
    """Files and folders that it makes, removes or changes."""
    differing: list[str]
    """Files and folders that are different afterwards from what they are without damage."""

    @classmethod
    def of(
        cls, code: int, text: str, before: dict[str, bytes], after: dict[str, bytes], whole: dict[str, bytes]
    ) -> "Outcome":
        """Return the outcome of a verb by all files before and after it, and after it without damage."""
        lists = [content.decode(errors="replace") for file, content in after.items() if _LISTS.search(file)]
        return cls(code, "\n".join([text, *lists]), _differing(before, after), _differing(whole, after))

    @property
    def lasting(self) -> list[str]:
        """What it prints, without lines of progress."""
        progress = r"\d%\||\.\.\.$|it/s|cells finished|\d\d:\d\d$"
        text = re.sub(r"(http://127\.0\.0\.1):\d+", r"\1", self.text)  # any free port
        text = re.sub(r"(?m)^\|.*", lambda row: re.sub(r"\b\d+\.\d{3} \|", "|", row[0]), text)  # milliseconds per query
        return [line for line in re.split(r"[\r\n]+", text) if line and not re.search(progress, line)]


def judge(name: str, state: str, verb: str, whole: Outcome, now: Outcome) -> str:
    """Return what is wrong with what a verb does after a file was damaged, compared with what it does before."""
    last = next(iter(now.text.strip().splitlines()[::-1]), "")
    if now.code not in {0, 1, 2} or "Traceback" in now.text:
        return f"exit code {now.code}: {now.text}"
    if re.search(_OF_LIBRARIES, now.text):
        return f"words of a library: {last}"
    is_damaged = _below(name)
    differing = [file for file in now.differing if not WRITTEN.search(file) and not is_damaged(file)]
    is_same = now.code == whole.code and not differing
    if is_same and (verb.startswith("resume") or now.lasting == whole.lasting):
        return ""
    said = [line for line in now.lasting if line not in whole.lasting]  # that another file is named is no word on this
    named = _names("\n".join(said), name, state) or _is_other_data(name, state, verb)
    if not named:
        return f"file not named: {last}" if now.code else f"another result without a word: {differing} {now.text}"
    if state in {"missing", "unreadable", "dangling"} and re.search(
        r": [^:(]*(?<!lost or )\bdamaged\b(?!,| or)", "\n".join(said)
    ):
        return f"wrong reason: {last}"
    if now.code == 1 and not _has_way_out(now.text):
        return f"no way out: {last}"
    written = OUTPUTS.get(verb)
    begun = "out/checkpoints/last.ckpt" in now.changed or re.search(r"; then resume with: .*/out$", last)
    if begun:  # a training, which can be resumed
        written = re.compile("^out/")
    others = [file for file in now.changed if not WRITTEN.search(file) and not is_damaged(file)]
    if now.code == 0:  # it may write what it writes without damage
        others = [file for file in others if file not in whole.changed and not file.startswith("out")]
    others = [file for file in others if not (written and written.match(file))]
    return f"changed {others}" if others else ""


def _has_way_out(text: str) -> bool:
    """Whether the sentence that a verb ends with says what to do."""
    error = re.split(r"error: |\nnote: ", text)[-1]
    return "; " in error or re.search(_PLAIN, error) is not None


def _without_times(name: str, content: bytes) -> bytes:
    """Return metrics without the column of seconds, the second."""
    if not name.endswith("metrics.csv"):
        return content
    return b"\n".join(b",".join(cells[:1] + cells[2:]) for cells in (row.split(b",") for row in content.splitlines()))


def _differing(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    """Return the names of files and folders that are in one only, or have other contents."""
    names = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    contents = ((name, one.get(name, b"-"), two.get(name, b"-")) for name in names)
    return [name for name, first, second in contents if _without_times(name, first) != _without_times(name, second)]


def _below(name: str) -> Callable[[str], bool]:
    """Return whether another file is the file, or in the folder."""
    return lambda other: f"{other.rstrip('/')}/".startswith(f"{name.rstrip('/')}/")


def _is_other_data(name: str, state: str, verb: str) -> bool:
    """Whether what happened makes other data for a verb, and no damage."""
    if name in TABLES:
        return state in {"cut", "flipped", "digit", "foreign", "swapped"}
    is_picture = name.startswith("images/") and "/." not in name
    is_other = state in {*SEEN_IN_LISTINGS, "swapped"} or (state == "empty" and name.endswith("/"))
    return is_picture and verb in OTHER_DATA and is_other


def _names(text: str, name: str, state: str) -> bool:
    """Whether a text names a file or folder, the folder of a cache, or that of a file of another run or index."""
    parts = Path(name).parts
    if state == "swapped" and re.search(rf"/{parts[0]}\b", text) and re.search(r"error:|note:", text):
        return True
    if re.search(r"problems?:\n| mended\)", text):  # pictures of an index, by their paths
        return True
    if name.startswith("images/group") and "/".join(parts[1:3]) in text:  # the class of a picture
        return True
    path = Path(re.sub(r"-(shm|wal)$", "", name.rstrip("/")))
    in_full = rf"/{re.escape(str(path))}(?![\w.-]*\w)"
    in_its_folder = rf"/{re.escape(str(path.parent))}: .*\b{re.escape(path.name)}(:| not found)"
    in_its_column = rf"(none|unknown): {re.escape(path.name)} "  # of a comparison
    return re.search(f"{in_full}|{in_its_folder}|{in_its_column}", text) is not None or _names_cache(text, parts)


def _names_cache(text: str, parts: tuple[str, ...]) -> bool:
    return ".ccpml-cache" in parts and (str(Path(*parts[:3])) in text or "the cache is missing or too small" in text)
