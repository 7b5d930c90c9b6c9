"""Train a run from its settings, and resume one that was stopped."""

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ProgressBar,
)

from ccpml.artifacts import expand_home
from ccpml.data import ImageDataset, train_loader
from ccpml.data.class_records import MixedDataError
from ccpml.data.dataset import ended_workers
from ccpml.data.sources.source import SourceNotFoundError
from ccpml.data_name import DataName
from ccpml.files import WriteError, digest_of, remove_leftovers_below
from ccpml.models.torch_state import torch_defaults
from ccpml.numbers import check_flags
from ccpml.progress import announce, print_note
from ccpml.runs.build import check_device, check_memory, check_weights, transforms, workers
from ccpml.runs.callbacks import Stopped, names_of_others
from ccpml.runs.defaults import notes
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import DataMovedError, find_images, load_images, read_facts
from ccpml.runs.loggers.names import check_installed
from ccpml.runs.loggers.quiet import quiet
from ccpml.runs.parts import Parts
from ccpml.runs.processes import (
    by_torchrun,
    first_rank,
    is_main_process,
    main_process_handles_signals,
    other_ranks,
    process_group_cleanup,
    report_ready,
)
from ccpml.runs.record import RunRecord, seen_by_weights, write_fingerprint
from ccpml.runs.scoring import score_run, score_test
from ccpml.runs.settings import ResolvedSettings, Settings
from ccpml.runs.trainer import Training, rank_batches
from ccpml.system_errors import check_writable

__all__ = ["resume", "train"]


_OF_A_RUN = (
    *(BackboneFinetuning, BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder),
    *(ModelCheckpoint, ProgressBar),
)
"""Callbacks of Lightning that do what a run does itself, or count the steps otherwise."""

_running = dict[int, object]()  # by process, as forked ones have a copy


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second training at the same time: torch's generators and settings are those of the process."""
    token = object()
    if _running.setdefault(os.getpid(), token) is not token:
        raise RuntimeError("another training runs in this process; train one after the other, or in spawned processes")
    try:
        yield
    finally:
        del _running[os.getpid()]


@_alone()
@torch_defaults()
def train(
    settings: Settings,
    path: str | os.PathLike[str],
    progress: bool = True,
    *,
    test: bool = True,
    callbacks: Sequence[L.Callback] = (),
    chosen: Sequence[str] = (),
    features: bool = True,
    data_digest: str = "",
) -> RunDirectory:
    """Train, test, and write a run directory.

    Args:
        settings: The settings.
        path: The run directory; nothing may exist there.
        progress: Whether to show the chosen settings and a line of progress on standard error.
        test: Whether to score the test classes at the end. Without it the run is unfinished, and `resume` tests it.
        callbacks: Further Lightning callbacks. They run after ours, except those that write checkpoints and logs.
            Several ranks have them only if torchrun starts them. Those that do what a run does itself or by its
            settings are refused, such as ``ModelCheckpoint`` and ``LearningRateFinder``.
        chosen: Reasons of settings that were chosen before this call, for the report.
        features: Whether to score the untouched features of initial weights too, in a pass over the test images.
        data_digest: Digest of the data that other runs are trained on, with which this one is compared, as `read_facts`
            returns it; other data are refused.

    Returns:
        The run, with an absolute path.

    Raises:
        MixedDataError: If the data are not those of ``data_digest``, before anything is written.
        ValueError: If the data or the settings cannot be used, before training starts or anything is written.
        FileExistsError: If something exists at ``path``; [`resume`][ccpml.resume] goes on with a run.
        MissingExtraError: If the package of a logger is not installed.
        RuntimeError: If another training runs in this process.
        LoggerError: If a logger cannot be opened, before training starts. One that fails later is a note.
        Stopped: After Ctrl-C; `resume` continues the run.

    Example:
        ```python
        run = train(Settings(data="folder:photos", loss="triplet"), Path("runs/photos"))
        print(run.scores()["test"]["map_at_r"])
        ```
    """
    check_flags(progress=progress, test=test, features=features)
    if not isinstance(settings, Settings):
        raise ValueError(f"settings: expected Settings, got {type(settings).__name__}")
    _check_callbacks(callbacks, settings.ranks)
    path = expand_home(path)
    home = path.absolute()
    if is_main_process():
        RunDirectory.require_free(path)
        check_writable(RunDirectory(path).settings_file)
    check_installed(settings.loggers())
    data = DataName.parse(settings.data).resolved()  # so that the files that the run names are found from any folder
    settings = replace(settings, data=str(data))
    source = find_images(settings)
    facts = read_facts(settings, source)
    if data_digest not in {"", facts.digest}:
        raise MixedDataError(
            f"{data}: expected the classes and images of the other runs, got some that were changed since; restore them"
        )
    resolved = _resolve_paths(settings.resolved(facts))
    check_device(resolved)
    check_memory(resolved, facts.train_classes)
    check_weights(resolved)
    choices = {
        "chosen": [*chosen, *(str(choice) for choice in settings.choices(facts) if choice.why)],
        "notes": notes(resolved.as_dict(), facts),
    }
    shown = progress and is_main_process()
    if shown:
        _print(choices)
    images = load_images(resolved, shown, source=source)
    _announce_compilation(resolved, shown)
    parts = Parts.build(resolved, images)
    if seen := seen_by_weights(resolved.weights, parts.images.classes):
        choices["notes"].append(seen)
        if shown:
            print_note(seen)
    run = RunDirectory(path)
    training = Training.set_up(run, parts, progress, callbacks)
    if is_main_process():
        RunDirectory.create(path, parts.settings, choices)
        _write_record(run, parts)
    _run(training, run, parts, test, features)
    return RunDirectory(home)


@_alone()
@torch_defaults()
def resume(
    path: str | os.PathLike[str],
    progress: bool = True,
    *,
    test: bool = True,
    callbacks: Sequence[L.Callback] = (),
    features: bool = True,
) -> RunDirectory:
    """Resume a run; the result is the one it would have had without the interruption.

    Args:
        path: The run directory. A finished run is left as it is.
        progress: Whether to show a line of progress on standard error.
        test: As for `train`.
        callbacks: As for `train`.
        features: As for `train`.

    Returns:
        The run, with an absolute path.

    Raises:
        FileNotFoundError: If ``path`` is not a run directory.
        RuntimeError: If another training runs in this process.
        ValueError: If its files are damaged, the data have changed, or callbacks are missing that it was started with.
        Stopped: After Ctrl-C.

    Example:
        ```python
        run = resume("runs/photos")  # as it is, since it is finished
        ```
    """
    check_flags(progress=progress, test=test, features=features)
    run = RunDirectory.open(path)
    home = run.path.absolute()
    if not run.finished:
        settings, state = run.settings(), run.check_state()
        _check_callbacks(callbacks, settings.ranks)
        check_installed(settings.loggers())
        if is_main_process():
            check_writable(run.scores_file)
            if state is None and _was_validated(run):
                print_note(f"{run.state_file}: not found, so the run starts again from the beginning")
        record = run.record() if state is not None or run.record_file.exists() else None
        try:
            images = load_images(settings, progress and is_main_process(), record, run.path)
        except SourceNotFoundError as error:  # of a benchmark too, as a run keeps its data root
            raise DataMovedError.of(error, run.path) from error
        _announce_compilation(settings, progress and is_main_process())
        parts = Parts.build(settings, images)
        if record is not None and (state is not None or run.weights_file.exists()):
            images.check_fingerprint(run.fingerprint(), run.path)
        elif is_main_process():  # it ended before its first validation, and starts again
            _write_record(run, parts)
        _run(Training.set_up(run, parts, progress, callbacks), run, parts, test, features)
    return RunDirectory(home)


def _was_validated(run: RunDirectory) -> bool:
    """Whether a run had a validation after its start, as its metrics tell; its weights may be those of the start."""
    last = run.last_metrics()
    return last.get("step", 1) > 0 if last else run.weights_file.exists()


def _write_record(run: RunDirectory, parts: Parts) -> None:
    """Write what the run is started with; the record last, without which the run is started again."""
    record = RunRecord(parts.settings.flat(), parts.images.classes, digest_of(run.choices()))
    write_fingerprint(run.images_file, parts.images.fingerprint(), record)
    record.write(run.record_file)


def _check_callbacks(callbacks: Any, ranks: int) -> None:
    """Raise ValueError if they are no callbacks, or other ranks, which this process starts, would not have them."""
    if not isinstance(callbacks, Sequence):
        raise ValueError(f"callbacks: expected several Lightning callbacks, got {callbacks!r}; pass a list")
    for one in callbacks:
        if not isinstance(one, L.Callback):
            got = f"the class {one.__name__}; pass {one.__name__}()" if isinstance(one, type) else repr(one)
            raise ValueError(f"callbacks: expected Lightning callbacks, got {got}")
        if isinstance(one, _OF_A_RUN):
            got = f"{type(one).__name__}; leave it out"
            raise ValueError(f"callbacks: expected none for what a run does itself, or by its settings, got {got}")
    if ranks > 1 and not by_torchrun() and (names := names_of_others(callbacks)):
        got = f"{', '.join(names)}, which the other ranks would not have"
        raise ValueError(f"callbacks: expected none with {ranks} ranks, got {got}; start the ranks by torchrun")


def _print(chosen: Mapping[str, Sequence[str]]) -> None:
    """Print the settings that were chosen for the images, and what is unusual about them."""
    if chosen["chosen"]:
        print("chosen for these images, as they were not given:", file=sys.stderr)
    for line in chosen["chosen"]:
        print(f"  {line}", file=sys.stderr)
    for line in chosen["notes"]:
        print_note(line)


def _announce_compilation(settings: ResolvedSettings, shown: bool) -> None:
    if settings.compile and shown:
        announce("compiling the network, now and in the first steps: minutes, unless torch's cache has it")


def _resolve_paths(settings: ResolvedSettings) -> ResolvedSettings:
    """Return the settings with absolute paths, so that the run can be repeated from any folder."""
    root = settings.data_root
    if DataName.parse(settings.data).is_benchmark:
        root = root or os.environ.get("CCPML_DATA", "")
    weights = settings.weights if settings.weights in {"none", "imagenet"} else _absolute(settings.weights)
    return replace(settings, data_root=root and _absolute(root), weights=weights)


def _absolute(path: str) -> str:
    return str(expand_home(path).resolve())


def _run(training: Training, run: RunDirectory, parts: Parts, test: bool, features: bool) -> None:
    """Train and test, on this rank and on those that it starts."""
    if parts.head_start and not (test and features):  # a search does not look at the test classes
        parts.head_start.test = None
    ranks, given = parts.settings.ranks, parts.settings.threads
    threads = max(1, torch.get_num_threads() // ranks) if given == "auto" else given
    if not is_main_process():
        torch.set_num_threads(threads)
        report_ready()
        with process_group_cleanup(), main_process_handles_signals():
            _fit_and_test(training, run, parts, test)
        return
    try:
        others = other_ranks(run.path, ranks, threads, test, features)
        with run.locked(), first_rank(), training.logging, others, training.stop_request:
            remove_leftovers_below(run.path)
            _fit_and_test(training, run, parts, test)
    except RuntimeError as error:
        lost = ranks > 1 or str(error).startswith(("DataLoader worker", "training stopped"))  # a worker, another rank
        if not (training.stop_request.signal and lost):
            raise
        stopped = Stopped("stopped at once", training.stop_request.signal)  # which ended its workers or other ranks too
    except OSError as error:
        if error.filename is not None or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
            raise
        raise WriteError(error.errno, error.strerror, str(run.path)) from error  # a library's writer names no file
    else:
        return
    raise stopped  # outside of the handler, so that no traceback keeps the process group


def _fit_and_test(training: Training, run: RunDirectory, parts: Parts, test: bool) -> None:
    """Train to the end, from the last checkpoint if there is one; then test with the best weights if requested."""
    settings, splits, trainer = parts.settings, parts.images.splits, training.trainer
    dataset = ImageDataset(splits.train, transforms(settings)[0], parts.images.channels, settings.seed)
    pinned = trainer.strategy.root_device.type == "cuda"
    batches = train_loader(dataset, parts.batches, workers(settings, splits.train), pinned, persistent=True)
    validation, state = rank_batches(parts, splits.validation, trainer), run.state_file
    with quiet(), ended_workers(batches, validation, parts.geometry.batches):
        ckpt_path = state if state.is_file() else None
        trainer.fit(parts.module, batches, validation, ckpt_path=ckpt_path, weights_only=True)
    if not test:
        return
    if training.progress and trainer.is_global_zero:
        announce("embedding the images with the best weights, and scoring the test classes")
    last = score_test(parts, trainer)[1] if settings.score_last else None
    parts.module.load_state_dict(run.weights())
    score_run(run, parts, training.recorder, trainer, last, training.logging.log_scores)
