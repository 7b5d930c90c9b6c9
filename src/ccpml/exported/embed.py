"""Embed whole sets of images by an exported model, and write them to a file."""

from pathlib import Path

from ccpml.data.embedding_file import write_embeddings
from ccpml.data.loading import read_source
from ccpml.data.upkeep.check import readable_images
from ccpml.exported.model import ExportedModel
from ccpml.numbers import check_flags
from ccpml.progress import progress_bar

__all__ = ["embed_data"]


def embed_data(
    path: Path,
    data: str,
    output: Path,
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
) -> int:
    """Embed all images of some data by an exported model, and write the file that its run would write.

    Args:
        path: The ONNX file.
        data: Data as in `Settings`, with or without labels.
        output: The file; see `write_embeddings`.
        data_root: Folder of the benchmarks.
        allow_partial: Whether a benchmark may be incomplete.
        skip_bad_images: Whether unreadable images are left out.

    Returns:
        The number of images.

    Raises:
        ValueError: If the model or the data cannot be used.
        WriteError: If the file cannot be written.
    """
    check_flags(allow_partial=allow_partial, skip_bad_images=skip_bad_images)
    model = ExportedModel(path)
    description = model.description
    source = read_source(data, data_root, allow_partial, description.transform.side, labeled=False)
    table, _ = readable_images(source, data, skip_bad_images)
    with progress_bar(len(table), "image", "embedding") as bar:
        embeddings = model.embed_table(table, bar.update)
    write_embeddings(output, embeddings, table, description.split_of_class, model.fingerprint)
    return len(table)
