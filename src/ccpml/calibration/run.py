"""Calibrate a trained run: embed classes that it has not seen, make promises, and write its certificate."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccpml.calibration.answers import Answers, find_answers
from ccpml.calibration.calibrate import calibrate, check_probability
from ccpml.calibration.certificate import CERTIFICATE_FILE, Certificate, CertificateError
from ccpml.calibration.training import (
    Constraint,
    balanced_constraint,
    cover_by_images,
    cover_by_proxies,
    generalization_terms,
)
from ccpml.data import ImageTable
from ccpml.files import read_arrays
from ccpml.numbers import as_int, check_flags
from ccpml.progress import progress_bar
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import Run, SeenClassesError, embed_normalized, open_run, unseen_images
from ccpml.system_errors import check_writable

__all__ = ["calibrate_run"]


def calibrate_run(
    path: str | os.PathLike[str],
    data: str | None = None,
    *,
    precisions: Sequence[float] = (0.8, 0.9, 0.95),
    confidence: float = 0.95,
    answers: int = 1,
    calibration_share: float = 0.5,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
) -> Certificate:
    """Write the certificate of a run, from classes that it was not trained on or chosen by.

    The classes are cut at random, by the run's seed, into those that calibrate and those that check. Each image is a
    query, and searches all other images, unless the data have roles.

    Args:
        path: The directory of a finished run.
        data: Data as in `Settings`, of which classes that the run has seen are left out; None: its test classes.
        precisions: The precisions to promise.
        confidence: Probability with which each promise holds.
        answers: Number of nearest images of a query that count as answers.
        calibration_share: Fraction of the classes that calibrate, in (0, 1), fixed before anything is observed. With
            more of them, higher precisions can be promised, and fewer classes check.
        data_root: Folder of the benchmarks; None is the run's own, or $CCPML_DATA.
        allow_partial: Whether a benchmark may be incomplete.
        skip_bad_images: Whether unreadable images are left out.

    Returns:
        The certificate, which is also written into the run directory, unless it promises nothing and the one that is
        there, of the same weights, does.

    Raises:
        CertificateError: If the data have too few classes or none that the run has not seen.
        UnfinishedRunError: If the run is not finished.
        WriteError: If its directory cannot be written, before anything is embedded.
        ValueError: If an argument is wrong, the data cannot be used, a file of the run is damaged, or an embedding is
            not finite.
    """
    check_flags(allow_partial=allow_partial, skip_bad_images=skip_bad_images)
    if not isinstance(precisions, Iterable):
        raise ValueError(f"precisions: expected several, such as [0.9], got {precisions!r}")
    precisions = [check_probability("precision", precision) for precision in precisions]
    if not precisions:
        raise ValueError("precisions: expected several, such as [0.9], got none")
    confidence = check_probability("confidence", confidence)
    check_probability("calibration_share", calibration_share)
    answers = as_int("answers", answers, 1)
    run = open_run(path)
    _ = run.scores  # that it is finished
    check_writable(run.path / CERTIFICATE_FILE)
    pilot = _read_split(run, "validation")
    where = data or run.settings.data
    try:
        table = unseen_images(
            run, data, data_root=data_root, allow_partial=allow_partial, skip_bad_images=skip_bad_images
        )
    except SeenClassesError as error:
        raise CertificateError(str(error)) from error
    embeddings = embed_normalized(run, table)
    try:
        found = _answers(table, embeddings, answers)
        known = _pilot(pilot, embeddings, answers)
        details = calibrate(found, known, precisions, confidence, run.settings.seed, calibration_share)
        details["training"] = _training(run, embeddings, table.labels, confidence)
    except ValueError as error:
        raise CertificateError(f"{where}: {error}") from error
    distances = {row["precision"]: row["distance"] for row in (*details["ladder"], *details["promises"])}
    certificate = Certificate(
        fingerprint=run.fingerprint,
        confidence=confidence,
        distances={precision: distance for precision, distance in distances.items() if distance is not None},
        answers=answers,
        details={"data": where, "images": len(table), "roles": table.roles is not None, **details},
    )
    if certificate.distances or not _promised(run):
        certificate.write(run.path)
    return certificate


def _promised(run: Run) -> Mapping[float, float]:
    """Return the promises of the certificate that a run has, if it is of its weights."""
    try:
        certificate = Certificate.read(run.path)
        certificate.check(run.fingerprint)
    except CertificateError:
        return {}
    return certificate.distances


def _read_split(run: Run, split: str) -> dict[str, NDArray[Any]]:
    directory = RunDirectory(run.path)
    file = directory.embeddings / f"{split}.npz"
    arrays = read_arrays(file, ("embeddings", "labels", "class_names"), directory.rewrite(file))
    directory.check_embeddings(file)
    return arrays


def _training(
    run: Run, unseen: NDArray[np.float32], unseen_labels: NDArray[np.int64], confidence: float
) -> dict[str, Any]:
    """Measure how proxies cover training classes and unseen ones, and how often pairs violate their constraint."""
    directory, settings = RunDirectory(run.path), run.settings
    train = _read_split(run, "train")
    covers = {
        "training_images": cover_by_images(train["embeddings"], train["labels"], settings.proxies_per_class),
        "unseen_images": cover_by_images(unseen, unseen_labels, settings.proxies_per_class),
    }
    proxies = directory.weights().get("criterion.proxies") if settings.method == "ccp" else None
    best = [row for row in directory.metrics() if row["step"] == run.scores["validation"]["step"]]
    placed = not any(row.get("instance", 0) < 0 for row in best)
    if proxies is not None and placed and int(train["labels"].max()) < len(proxies):
        own = cover_by_proxies(train["embeddings"], train["labels"], proxies.float().numpy())
        covers = {"training_proxies": own, **covers}
    margins = settings.loss_parameters
    has_margins = {"pos_margin", "neg_margin"} <= margins.keys()
    if has_margins:
        low, high = margins["pos_margin"], margins["neg_margin"]
        constraint = Constraint((low + high) / 2, (high - low) / 2)
    else:
        constraint = balanced_constraint(next(iter(covers.values())))
    measured = {name: covered.measure(constraint, confidence) for name, covered in covers.items()}
    images = run.scores["splits"]["train"]["images"]
    compared = measured["training_images"], measured["unseen_images"]
    return {
        "beta": constraint.beta,
        "alpha": constraint.alpha,
        "margins_of_loss": has_margins,
        "measured": measured,
        "terms": generalization_terms(*compared, images, constraint, confidence),
    }


def _answers(table: ImageTable, embeddings: NDArray[np.float32], count: int) -> Answers:
    """Search all images for each, or the gallery for the queries."""
    labels, names = table.labels, table.class_names
    with progress_bar(len(table), "query", "searching") as bar:
        if table.roles is None:
            own = np.arange(len(table))
            return find_answers(embeddings, labels, embeddings, labels, own, names, count, bar.update)
        rows, others = (np.flatnonzero(table.roles == role) for role in ("query", "gallery"))
        return find_answers(
            embeddings[rows], labels[rows], embeddings[others], labels[others], None, names, count, bar.update
        )


def _pilot(validation: dict[str, NDArray[Any]], unseen: NDArray[np.float32], count: int) -> Answers:
    """Search for images of the validation classes among themselves and all images of the unseen classes."""
    x, labels, names = (validation[name] for name in ("embeddings", "labels", "class_names"))
    gallery = np.concatenate([x, unseen])
    foreign = np.full(len(unseen), len(names))  # of another class than any query
    return find_answers(
        x, labels, gallery, np.concatenate([labels, foreign]), np.arange(len(x)), (*names.tolist(), ""), count
    )
