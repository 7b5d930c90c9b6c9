"""What an exported model says about itself, from the files of its run."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ccpml.calibration.certificate import CERTIFICATE_FILE, Certificate, CertificateError
from ccpml.data_name import DataName
from ccpml.exported.description import Description
from ccpml.runs.build import transforms
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import Run, unfinished_note

__all__ = ["UNKNOWN_LICENSE", "describe_run"]

UNKNOWN_LICENSE = "unknown"


def describe_run(run: Run, license_id: str = UNKNOWN_LICENSE) -> tuple[Description, list[str]]:
    """Return the description of a run with weights, and notes about what it lacks.

    It has no path of this machine: data in a folder or a table are named by the last part of their path.

    Raises:
        ValueError: If a file of the run is damaged.
    """
    settings, model, directory = run.settings, run.model, RunDirectory(run.path)
    transform = transforms(settings)[1]
    notes = [note] if (note := unfinished_note(run)) else []
    record = directory.record() if directory.record_file.exists() else None
    certificate = None
    if (run.path / CERTIFICATE_FILE).exists():
        try:
            found = Certificate.read(run.path)
            found.check(run.fingerprint, str(run.path / CERTIFICATE_FILE))
            certificate = _without_paths(found.details)
        except CertificateError as error:
            notes.append(f"exported without the certificate: {error}")
    channels = model.backbone.convention.channels
    description = Description(
        fingerprint=run.fingerprint,
        embedding_dim=run.embedding_dim,
        channels=channels,
        size=transform.size,
        resize=transform.side,
        network={
            "backbone": settings.backbone,
            "embedding_dim": settings.embedding_dim,
            "pooling": settings.pooling,
            "channels": channels,
            "image_size": settings.image_size,
            "bias": model.linear.bias is not None,
        },
        split_of_class={} if record is None else record.split_of_class,
        certificate=certificate,
        card=_card(run, directory, license_id),
    )
    return description, notes


def _card(run: Run, directory: RunDirectory, license_id: str) -> dict[str, Any]:
    """Return the facts of the model card, which no path of this machine is part of."""
    settings, weights = run.settings, run.settings.weights
    card: dict[str, Any] = {
        "run": run.path.resolve().name,
        "license": license_id,
        "data": data_label(settings.data),
        "method": settings.method,
        "loss": settings.loss,
        "initial_weights": weights if weights in {"none", "imagenet"} else Path(weights).name,
        "finished": directory.finished,
        "exported_with": {name: version(name) for name in ("ccpml", "torch")},
    }
    if directory.finished:
        scores = directory.scores()
        names = ("intervals", "features", "notes", "splits", "partial", "steps", "seed", "versions")
        card |= {"scores": scores["test"], **{name: scores[name] for name in names if name in scores}}
    return card


def data_label(data: str) -> str:
    """Return the name of data without the folder that they are in.

    Example:
        >>> data_label("folder:/home/me/photos"), data_label("cub")
        ('folder:photos', 'cub')
    """
    name = DataName.parse(data)
    return f"{name.kind}:{name.resolved().path.rpartition('/')[2]}" if name.path else name.kind


def _without_paths(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a certificate with its data named as in `data_label`."""
    data = certificate.get("data")
    named = {"data": data_label(data)} if isinstance(data, str) and DataName.is_valid(data) else {}
    return {**certificate, **named}
