"""The Optuna study behind a search: its storage, its sampler, and the check that it is the same search."""

import contextlib
import math
import re
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from ccpml.files import WriteError, check_readable, read_folder_file, waiting_lock, write_folder_file
from ccpml.runs.defaults import DataFacts
from ccpml.runs.loggers.quiet import quiet
from ccpml.runs.settings import Settings
from ccpml.runs.values import differences, portable
from ccpml.system_errors import check_writable
from ccpml.tuning.search_space import Choices, Field, Range

__all__ = ["Search", "SeededSampler", "Study", "StudyExistsError", "open_study", "storage_errors", "suggest"]

_FILES: Final = 4
"""Files that SQLite has open for one database."""

_FREE: Final = 2**16
"""Bytes that can be written if a disk is not full."""


class StudyExistsError(FileExistsError):
    """The folder or the storage of a search holds something else."""


@dataclass(frozen=True)
class Search:
    """A search for the best settings.

    Attributes:
        base: Settings shared by all trials; its seed is the seed of the search too.
        space: The settings that vary.
        out: Folder of the trials' runs and of the results.
        name: Name of the study.
        storage: URL of Optuna's storage; None is an SQLite file in ``out``.
        trials: Number of trials of the whole study.
        timeout: Seconds after which no trial starts.
        pruner: median stops a trial whose best score so far is below the median of the other trials at that step.
        startup_trials: Complete trials before any trial is pruned.
        warmup_validations: Validations of a trial before it can be pruned.
        facts: Facts about the images, from which settings that are left open are chosen; `run_search` reads them.
            None: those of many small gray images.
    """

    base: Settings
    space: tuple[Field, ...]
    out: Path
    name: str
    storage: str | None = None
    trials: int = 50
    timeout: float | None = None
    pruner: Literal["median", "none"] = "median"
    startup_trials: int = 5
    warmup_validations: int = 10
    facts: DataFacts | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("startup_trials", 0), ("warmup_validations", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout: expected a finite number of seconds > 0, got {self.timeout}")
        if not self.name:
            raise ValueError("study: expected a name, got ''")
        if self.storage is not None and "://" not in self.storage:
            examples = "sqlite:///study.db or postgresql://user:password@host/database"
            raise ValueError(f"storage: expected a URL such as {examples}, got {self.storage!r}")
        if self.storage is None and set("{}?%") & set(str(self.out.resolve())):
            refused = "{, }, ? and %, which a storage URL cannot hold"
            raise ValueError(f"out: expected a path without {refused}: {self.out}")

    @property
    def url(self) -> str:
        """URL of the storage."""
        return self.storage or f"sqlite:///{(self.out / 'study.db').resolve()}"

    def path(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.out / f"trial-{number:04d}"

    def lock(self, name: str) -> FileLock:
        """Return a lock between the processes that share ``out``; the lock of a dead process is free."""
        folder = self.out / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock, after waiting for it if necessary."""
        return waiting_lock(self.lock(name), f"{self.out}: another process is using this study")


@dataclass(frozen=True)
class Study:
    """An open study; ``folder_id`` identifies the folder ``out``, which differs between the machines that share it."""

    optuna: optuna.Study
    folder_id: str

    def facts(self, read: Callable[[], DataFacts]) -> DataFacts:
        """Return the facts about the images that hold for all trials: those that the first machine read."""
        if "facts" not in self.optuna.user_attrs:
            self.optuna.set_user_attr("facts", asdict(read()))
        return DataFacts(**self.optuna.user_attrs["facts"])


def open_study(search: Search) -> Study:
    """Open the study of a search, and create it if it does not exist.

    Raises:
        StudyExistsError: If ``out`` holds something else, or the study has other settings.
        ValueError: If the storage cannot be opened.
        WriteError: If the folder ``out`` cannot be written.
    """
    _read_folder_id(search)
    _check_database(search)
    check_writable(search.out / "study.yaml")
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if search.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials)
    with quiet():
        try:
            # A shared storage that cannot be opened leaves nothing in the folder.
            shared = None if search.storage is None else _open_storage(search.url)
            with search.locked("study"):
                folder_id = _claim_folder(search)
                study = optuna.create_study(
                    storage=shared or _open_storage(search.url),
                    study_name=search.name,
                    direction="maximize",
                    load_if_exists=True,
                    sampler=SeededSampler(search.base.seed),
                    pruner=pruner,
                )
                _check_same_search(study, search)
                if not study.trials and any(search.out.glob("trial-*")):
                    raise StudyExistsError(
                        f"{search.out}: holds runs of a study that is not in the storage; remove them"
                    )
        except StudyExistsError:
            raise
        except Exception as error:  # each database driver has its own
            if search.storage is None:
                _check_system(search.out)
            url = _without_password(search.url)
            if isinstance(error, ImportError):
                way_out = "install one, such as psycopg2-binary for PostgreSQL or mysqlclient for MySQL"
                raise ValueError(f"storage {url}: the driver of its database is not installed; {way_out}") from error
            raise ValueError(
                f"storage {url}: cannot be opened ({_reason(error, search)}); check its address"
            ) from error
    return Study(study, folder_id)


@contextlib.contextmanager
def storage_errors(search: Search) -> Iterator[None]:
    """Name the storage, and the error of the system if there is one, where Optuna cannot read or write in the block.

    Raises:
        WriteError: If the disk of ``study.db`` is full or broken, or too many files are open.
        ValueError: If the storage fails for another reason.
    """
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        if search.storage is None:
            _check_system(search.out)
        reason = _reason(error.__cause__ or error, search)
        raise ValueError(f"storage {_without_password(search.url)}: {reason}; the same search resumes later") from error


def _reason(error: BaseException, search: Search) -> str:
    text = str(error).replace(search.url, _without_password(search.url))
    text = text.partition("(Background on this error")[0].partition("\n[SQL")[0]
    text = re.sub(r"^\([\w.]+\) ", "", text)  # the class of the error
    return text.strip() or type(error).__name__


def _check_database(search: Search) -> None:
    """Check that ``study.db`` is whole, if the storage is this file and it exists.

    Raises:
        StudyExistsError: If it is missing or empty, but there are runs of a study.
        ValueError: If it is damaged.
    """
    file = search.out / "study.db"
    if search.storage is not None:
        return
    if not file.exists() or not file.stat().st_size:
        if any(search.out.glob("trial-*")):
            state = "empty" if file.exists() else "not found"
            raise StudyExistsError(f"{file}: {state}, but there are runs of a study; restore it from a copy")
        return
    way_out = f"restore it from a copy, or move {search.out} away to start the study again"
    check_readable(file, way_out)
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = [str(row[0]) for row in database.execute("PRAGMA quick_check(1)")]
    except sqlite3.OperationalError:  # another process writes; the storage waits for it
        return
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    if found != ["ok"]:
        raise ValueError(f"{file}: damaged ({found[0]}); {way_out}")


def _check_system(folder: Path) -> None:
    """Raise the error of the system below one of SQLite, which keeps it, if there is one; it is found by trying."""
    file = folder / "study.db"
    try:
        with contextlib.ExitStack() as opened, TemporaryFile(dir=folder) as probe:
            for _ in range(_FILES):
                opened.enter_context(TemporaryFile(dir=folder))
            probe.write(bytes(_FREE))
            probe.flush()
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(file)) from error


def _open_storage(url: str) -> Any:
    """Open a storage. SQLite waits for other writers; Redis holds a journal."""
    if url.startswith("redis"):
        from optuna.storages.journal import JournalRedisBackend

        return optuna.storages.JournalStorage(JournalRedisBackend(url))
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for _ in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except Exception as error:  # each database driver has its own
            if "already exists" not in str(error):
                raise
            time.sleep(1)  # another machine is creating the tables
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}:***@{host}" if at and ":" in user else url


def _claim_folder(search: Search) -> str:
    """Return the identifier of the folder; create the folder if it does not exist."""
    folder_id = _read_folder_id(search)
    if folder_id is None:
        folder_id = uuid.uuid4().hex
        write_folder_file(search.out / "study.yaml", {**_describe_study(search), "folder_id": folder_id})
    return folder_id


def _read_folder_id(search: Search) -> str | None:
    """Return the identifier of the folder, None if it is new; check that it belongs to this study."""
    found = read_folder_file(search.out / "study.yaml", "study", {"folder_id": str}, StudyExistsError)
    if found is None:
        return None
    changed = differences(found, _describe_study(search) | {"folder_id": found["folder_id"]})
    if changed:
        raise StudyExistsError(f"{search.out}: holds another study, by study.yaml ({'; '.join(changed)})")
    return str(found["folder_id"])


def _describe_study(search: Search) -> dict[str, str]:
    storage = "study.db" if search.storage is None else _without_password(search.storage)
    return {"study": search.name, "storage": storage}


def _check_same_search(study: optuna.Study, search: Search) -> None:
    """Write the search into a new study; check that an existing study is of the same search."""
    settings = portable(search.base.flat())
    space = sorted(map(str, search.space))
    if "settings" not in study.user_attrs:
        if study.trials:
            raise StudyExistsError(f"study {search.name}: already exists in the storage and is not from ccpml")
        study.set_user_attr("search", space)
        study.set_user_attr("settings", settings)
        return
    changed = differences(study.user_attrs["settings"], settings)
    if study.user_attrs["search"] != space:
        changed.append(f"search: was {' '.join(study.user_attrs['search'])}, is {' '.join(space)}")
    if changed:
        raise StudyExistsError(f"study {search.name}: already exists with other settings ({'; '.join(changed)})")


class SeededSampler(BaseSampler):
    """Optuna's TPE, with draws that depend only on the seed, the trial's number and the trials before it.

    A resumed study therefore continues with the values that it would have had, and machines that share a study draw
    different values.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _sampler(self, trial: FrozenTrial, name: str = "") -> TPESampler:
        return TPESampler(seed=zlib.crc32(f"{self.seed} {trial.number} {name}".encode()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the fields that are sampled jointly."""
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the fields that are sampled jointly."""
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one of the other fields."""
        return self._sampler(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


def suggest(trial: optuna.Trial, space: Sequence[Field]) -> dict[str, Any]:
    """Return the values of a trial by field, sampled where it has none yet.

    If ``pool_size`` is searched too, ``proxies_per_class`` is at most its value.
    """
    values: dict[str, Any] = {}
    for field in sorted(space, key=lambda field: field.name == "proxies_per_class"):
        if isinstance(field, Choices):
            values[field.name] = trial.suggest_categorical(field.name, field.values)
        elif field.is_integer:
            values[field.name] = trial.suggest_int(field.name, int(field.low), _upper(field, values), log=field.log)
        else:
            values[field.name] = trial.suggest_float(field.name, field.low, field.high, log=field.log)
    return {field.name: values[field.name] for field in space}


def _upper(field: Range, values: dict[str, Any]) -> int:
    pool = values.get("pool_size", field.high) if field.name == "proxies_per_class" else field.high
    return int(max(field.low, min(field.high, pool)))
