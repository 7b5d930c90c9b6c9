"""The study behind a search: where Optuna keeps it, how it draws, and that it is the same one."""

import math
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from ccpml.data_name import DataName
from ccpml.files import write_text
from ccpml.runs.locks import waiting_lock
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import Choices, Field, Range

__all__ = ["Search", "SeededSampler", "Study", "open_study", "suggest"]

_INCIDENTAL = {"device", "threads", "workers", "data_root"}
"""Settings that decide where and how fast a trial is trained, not what it is."""


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        base: The experiment whose fields vary; its seed is the search's too.
        space: The fields.
        out: Folder of the trials' runs and of the results.
        name: Of the study.
        storage: Where Optuna keeps it, a URL; None is an SQLite file in ``out``.
        trials: How many, in the whole study.
        timeout: Seconds after which no trial begins any more.
        pruner: median stops a trial whose best score so far is below the median of the others at that step; none stops
            none.
        startup_trials: Trials that must be complete before any is pruned.
        warmup_validations: Validations that each trial has before it can be pruned.
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

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("startup_trials", 0), ("warmup_validations", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout: expected seconds above 0, got {self.timeout}")
        if not self.name:
            raise ValueError("study: expected a name, got nothing")
        if self.storage is not None and "://" not in self.storage:
            raise ValueError(
                f"storage: expected a URL such as sqlite:///study.db or postgresql://user:password@host/database, got "
                f"{self.storage!r}"
            )
        if self.storage is None and set("{}?%") & set(str(self.out.resolve())):
            raise ValueError(f"out: {self.out}: a storage URL cannot hold {{, }}, ? or %; choose another place")

    @property
    def url(self) -> str:
        """Where Optuna keeps the study."""
        return self.storage or f"sqlite:///{(self.out / 'study.db').resolve()}"

    def path(self, number: int) -> Path:
        """Give the run directory of a trial."""
        return self.out / f"trial-{number:04d}"

    def lock(self, name: str) -> Path:
        """Give the file of a lock."""
        return self.out / ".locks" / name


@dataclass(frozen=True)
class Study:
    """An open study.

    Attributes:
        optuna: Optuna's.
        place: What tells ``out`` from the folders of other machines.
    """

    optuna: optuna.Study
    place: str


class SeededSampler(BaseSampler):
    """Optuna's TPE, whose draws are a function of the seed, the trial's number and the trials before it.

    So a study that was killed goes on with the values that it would have had, and machines that share one draw
    different values.

    Args:
        seed: Of the search.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _at(self, trial: FrozenTrial, what: str = "") -> TPESampler:
        return TPESampler(seed=zlib.crc32(f"{self.seed} {trial.number} {what}".encode()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Give the fields that are drawn jointly."""
        return self._at(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._at(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw another field."""
        return self._at(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


def suggest(trial: optuna.Trial, space: Sequence[Field]) -> dict[str, Any]:
    """Give the values of a trial: those that it has, or new ones.

    Where both are searched, there are at most as many proxies as the pool has points.
    """
    values: dict[str, Any] = {}
    for field in sorted(space, key=lambda field: field.name == "proxies_per_class"):
        if isinstance(field, Choices):
            values[field.name] = trial.suggest_categorical(field.name, field.values)
        elif field.whole:
            values[field.name] = trial.suggest_int(field.name, int(field.low), _most(field, values), log=field.log)
        else:
            values[field.name] = trial.suggest_float(field.name, field.low, field.high, log=field.log)
    return {field.name: values[field.name] for field in space}


def _most(field: Range, values: dict[str, Any]) -> int:
    pool = values.get("pool_size", field.high) if field.name == "proxies_per_class" else field.high
    return int(max(field.low, min(field.high, pool)))


def open_study(search: Search) -> Study:
    """Open a study, or begin it.

    Raises:
        FileExistsError: If ``out`` holds something else, or the study is one of other settings.
        ValueError: If the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _require_ours(search)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if search.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials)
    with waiting_lock(search.lock("study")):
        try:
            shared = None if search.storage is None else _storage(search.url)  # before the folder is claimed for it
            place = _claim_folder(search)
            study = optuna.create_study(
                storage=shared or _storage(search.url),
                study_name=search.name,
                direction="maximize",
                load_if_exists=True,
                sampler=SeededSampler(search.base.seed),
                pruner=pruner,
            )
            _require_same(study, search)
            if not study.trials and any(search.out.glob("trial-*")):
                raise FileExistsError(
                    f"{search.out}: there are runs of a study that is no longer in its storage; remove them, or choose "
                    "another place with --out"
                )
        except FileExistsError:
            raise
        except Exception as error:  # whatever the drivers of data bases raise
            url = _without_password(search.url)
            why = str(error).replace(search.url, url)
            raise ValueError(f"storage {url}: cannot be opened: {why or type(error).__name__}") from error
    return Study(study, place)


def _storage(url: str) -> Any:
    """Open a storage; SQLite waits for other writers, and Redis holds a journal."""
    if url.startswith("redis"):
        from optuna.storages.journal import JournalRedisBackend

        return optuna.storages.JournalStorage(JournalRedisBackend(url))
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for _ in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except Exception as error:  # each driver has its own
            if "already exists" not in str(error):
                raise
            time.sleep(1)  # another machine makes the tables just now
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _without_password(url: str) -> str:
    scheme, found, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{found}{user.partition(':')[0]}:***@{host}" if at and ":" in user else url


def _require_ours(search: Search) -> str | None:
    """Check that a folder is this study's, or none's; give its name among those of all machines if it has one."""
    out, file = search.out, search.out / "study.yaml"
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file; choose another place with --out")
    if not file.is_file():
        if out.exists() and any(path.name != ".locks" for path in out.iterdir()):
            raise FileExistsError(f"{out}: there is something that is no study; choose another place with --out")
        return None
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("place"), str):
        raise FileExistsError(f"{file}: damaged; choose another place with --out")
    for name, value in _folder_of(search).items():
        if found.get(name) != value:
            way_out = "choose another place with --out"
            raise FileExistsError(f"{out}: there is a study with {name} {found.get(name)}, not {value}; {way_out}")
    return str(found["place"])


def _folder_of(search: Search) -> dict[str, str]:
    return {
        "study": search.name,
        "storage": "study.db" if search.storage is None else _without_password(search.storage),
    }


def _claim_folder(search: Search) -> str:
    """Make the folder this study's, if it is not yet."""
    place = _require_ours(search)
    if place is None:
        place = uuid.uuid4().hex
        content = {**_folder_of(search), "place": place}
        write_text(search.out / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return place


def _require_same(study: optuna.Study, search: Search) -> None:
    """Write what is searched into a new study, or check that an old one searches the same."""
    settings = {name: _portable(name, value) for name, value in search.base.flat().items()}
    wanted: dict[str, Any] = {"search": sorted(map(str, search.space)), "settings": settings}
    found = study.user_attrs
    if "settings" not in found:
        if study.trials:
            raise FileExistsError(f"study {search.name}: is not one of ccpml's; choose another name with --study")
        for name, value in wanted.items():
            study.set_user_attr(name, value)
        return
    differing = [
        f"{name}: {was} there, {settings.get(name)} now"
        for name, was in found["settings"].items()
        if name not in _INCIDENTAL and settings.get(name) != was
    ]
    if found["search"] != wanted["search"]:
        differing.append(f"search: {' '.join(found['search'])} there, {' '.join(wanted['search'])} now")
    if differing:
        raise FileExistsError(
            f"study {search.name}: there is one with other settings ({'; '.join(differing)}); give it those that it "
            "began with, or choose another --study and --out"
        )


def _portable(name: str, value: Any) -> Any:
    """Name files by their last part: on another machine they lie elsewhere."""
    if name == "data":
        data = DataName.parse(value).resolved()
        return str(DataName(data.kind, Path(data.path).name))
    if name == "weights" and value not in {None, "none", "imagenet"}:
        return Path(value).expanduser().name
    return value
