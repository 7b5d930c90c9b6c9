"""Export a run: write it in a format, read that back, and check it against the run on real images."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ccpml.artifacts import expand_home
from ccpml.exporting.card import model_card
from ccpml.exporting.check import check_images, compare
from ccpml.exporting.describe import UNKNOWN_LICENSE, describe_run
from ccpml.exporting.formats import READERS, WRITERS
from ccpml.exporting.graph import EmbeddingGraph
from ccpml.exporting.targets import Format, TargetExistsError, card_of, check_target, default_target
from ccpml.files import errors_name, remove_leftovers, temporary_path, write_text
from ccpml.models.torch_state import torch_defaults
from ccpml.progress import announce
from ccpml.runs.inference import open_run

__all__ = ["Export", "export_run"]


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file, or the folder of the format ``hub``.
        card: The model card, in Markdown.
        difference: Largest difference to the embeddings of the run, in any dimension of any image of the check.
        checked_on: The images of the check, in words.
        notes: What is missing or unusual, in sentences.
    """

    path: Path
    card: Path
    difference: float
    checked_on: str
    notes: list[str] = field(default_factory=list)


@torch_defaults()
def export_run(
    run: str | os.PathLike[str],
    file_format: Format,
    target: str | os.PathLike[str] | None = None,
    *,
    license_id: str = UNKNOWN_LICENSE,
    repository: str | None = None,
) -> Export:
    """Export a trained run to a format that other software reads.

    The exported model takes images as uint8, (B, C, size, size), cropped as the run's evaluation does, and returns
    φ-normalized embeddings, float32 (B, d), for any B; scaling and normalization of the pixels are inside. (The formats
    ``safetensors`` and ``hub`` are weights, which [`EmbeddingModel`][ccpml.EmbeddingModel]'s ``from_pretrained`` loads:
    its embeddings are those before φ.) It is read back and compared with the run on images of its test classes, in
    batches of several sizes, before it gets its name: it is there completely, or not at all. A model card is written
    beside it, or into the folder.

    Args:
        run: A run directory with weights.
        file_format: ``onnx`` (needs the extra ``export``), ``pt2`` (of torch.export), ``safetensors``, or ``hub``: a
            folder for the Hugging Face hub.
        target: Where to write; nothing may exist there. None: ``<run>/export/<name of the run>``.
        license_id: License of the model, as in the model card.
        repository: Name on the hub, ``user/name``, from which the code of the model card loads; None: the folder.

    Returns:
        Where the model and its card are, and how far the model is from the run.

    Raises:
        FileExistsError: If the target exists.
        FileNotFoundError: If ``run`` is not a run directory, or has no weights yet.
        ImportError: If packages of the format are not installed.
        ValueError: If the format is unknown, the target cannot be written, a file of the run is damaged, or the
            exported model differs from the run by more than 1e-5.

    Example:
        ```python
        exported = export_run("runs/photos", "safetensors")
        model = EmbeddingModel.from_pretrained(exported.path)
        ```
    """
    if not isinstance(license_id, str):
        raise ValueError(f"license_id: expected a text, such as 'apache-2.0', got {license_id!r}")
    path = expand_home(run, "run")
    place = default_target(path, file_format) if target is None else expand_home(target, "target")
    check_target(place, file_format)
    loaded = open_run(path)
    description, notes = describe_run(loaded, license_id)
    graph = EmbeddingGraph(loaded.model).eval()
    announce("reading images for the check")
    check = check_images(loaded, description.channels)
    if check.note:
        notes.append(check.note)
    with _new_files(place) as folder:
        written = folder / place.name
        announce(f"exporting to {file_format}")
        WRITERS[file_format](written, graph, description)
        announce("checking the exported model against the run")
        difference = compare(graph, READERS[file_format](written), check.images, str(place))
        card = model_card(description, file_format, repository or place.name, difference, check.origin)
        write_text(card_of(written, file_format), card)
    return Export(place, card_of(place, file_format), difference, check.origin, notes)


@contextmanager
def _new_files(target: Path) -> Iterator[Path]:
    """Return a folder to create, whose content is moved to a target at the end; after an error, nothing is left.

    What a process that was killed has left is removed.
    """
    folder = temporary_path(target)
    remove_leftovers(target)
    created = [parent for parent in target.absolute().parents if not parent.exists()]
    moved = list[Path]()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with errors_name(target, folder):
            yield folder
            for path in folder.iterdir():
                if target.with_name(path.name).exists():  # another process was faster
                    raise TargetExistsError(f"{target.with_name(path.name)}: already exists")
            for path in sorted(folder.iterdir(), reverse=True):  # the model last, whose name is shorter than its card's
                moved.append(path.rename(target.with_name(path.name)))
        moved.clear()
    finally:
        for path in moved:
            path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in created:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
