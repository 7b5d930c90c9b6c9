"""A model in an ONNX file, which embeds images by onnxruntime, without torch."""

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ccpml.artifacts import expand_home
from ccpml.data.crops import cropped_batches, name_of_image
from ccpml.data.table import ImageTable
from ccpml.exported.onnx_file import read_description
from ccpml.exported.runtime import import_onnxruntime
from ccpml.numbers import as_int
from ccpml.system_errors import raise_shortage

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["ExportedModel", "ExportedModelError"]

_BATCH: Final = 32  # images; on a CPU, larger batches are not faster and take more memory


class ExportedModelError(ValueError):
    """An exported model cannot be loaded, is not what its description says, or its embeddings are not finite."""


class ExportedModel:
    """A run in an ONNX file, as ``ccpml export <run> --format onnx`` writes it; needs onnxruntime, and no torch.

    Its embeddings are those of the run up to rounding, and so is its fingerprint: an index that was made with one is
    searched with the other. It computes on the CPU. Its methods can be called by several threads. A copy, also one
    that is pickled for another process, reads the file again.

    Args:
        path: The file.
        threads: Number of threads that compute; by default OMP_NUM_THREADS, or one for each processor of this process.

    Attributes:
        path: The file, absolute.
        description: What the file says about the model: sizes, preprocessing, classes, certificate.

    Raises:
        FileNotFoundError: If there is no such file.
        DescriptionError: If it is not an exported model, is damaged, or was written by a newer version of ccpml.
        ExportedModelError: If onnxruntime cannot load it, or its inputs and outputs are not as described.
        ModuleNotFoundError: If onnxruntime is not installed.

    Example:
        ```python
        model = ExportedModel("photos.onnx")
        embeddings = model.embed(["mug.jpg", "cup.jpg"])  # (2, 128)
        print(model.fingerprint, model.description.split_of_class)
        ```
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        self.path, self._threads = expand_home(path).absolute(), threads
        self.description = read_description(self.path)
        number = _usable_processors() if threads is None else as_int("threads", threads, 1)
        self._session = _open_session(self.path, number)
        _check_graph(self._session, self.description.channels, self.description.size, self.embedding_dim, self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._threads)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing of the run, in hexadecimal."""
        return self.description.fingerprint

    @property
    def embedding_dim(self) -> int:
        """Dimensions d of an embedding."""
        return self.description.embedding_dim

    def embed(
        self, images: Sequence[Path | str | bytes | NDArray[np.uint8]], batch_size: int = _BATCH
    ) -> NDArray[np.float32]:
        """Embed images as the run's own evaluation does; EXIF rotations are applied.

        Args:
            images: Paths of image files, contents of files, or arrays: uint8, (H, W), (H, W, 1) or (H, W, 3) in RGB,
                such as images of Pillow in mode L or RGB that are upright.
            batch_size: Images embedded at a time.

        Returns:
            φ-normalized embeddings, float32 (N, d).

        Raises:
            BadImageError: If an image cannot be read.
            ExportedModelError: If an embedding is not finite.
            ValueError: If an image is neither, or an array has another shape or type.
        """
        return self._embed(images, batch_size, True, lambda row: name_of_image(images[row], row))

    def embed_table(
        self, table: ImageTable, progress: Callable[[int], object] | None = None, batch_size: int = _BATCH
    ) -> NDArray[np.float32]:
        """Embed the images of a table.

        Args:
            table: The images.
            progress: Called with the number of images after each batch.
            batch_size: Images embedded at a time.

        Returns:
            φ-normalized embeddings, float32 (N, d).

        Raises:
            BadImageError: If an image cannot be read.
            ExportedModelError: If an embedding is not finite.
        """
        return self._embed(table.images, batch_size, table.rotate, table.name_of, progress)

    def _embed(
        self,
        images: Any,
        batch_size: int,
        rotate: bool,
        name: Callable[[int], str],
        progress: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        batches = cropped_batches(images, self.description.transform, self.description.channels, batch_size, rotate)
        parts, done = [np.empty((0, self.embedding_dim), np.float32)], 0
        for found in self._outputs(batches):  # (B, d)
            broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
            if len(broken):
                raise ExportedModelError(
                    f"{self.path}: expected finite embeddings, got NaN or infinity for {name(done + int(broken[0]))}; "
                    "the weights have diverged or are damaged"
                )
            parts.append(found)
            done += len(found)
            if progress is not None:
                progress(len(found))
        return np.concatenate(parts)

    def _outputs(self, batches: Generator[NDArray[np.uint8], None, None]) -> Generator[NDArray[np.float32], None, None]:
        for batch in batches:
            [found] = self._session.run(["embeddings"], {"images": batch})
            if found.shape != (len(batch), self.embedding_dim):
                raise ExportedModelError(
                    f"{self.path}: expected embeddings of shape {(len(batch), self.embedding_dim)}, got {found.shape}; "
                    "export the run again"
                )
            yield found


def _usable_processors() -> int:
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other threads read images meanwhile
    options.log_severity_level = 4  # what fails is raised, too
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise_shortage(error)
        reason = " ".join(str(error).split())
        raise ExportedModelError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({reason}); update onnxruntime, or export "
            "the run again"
        ) from error


def _check_graph(session: "onnxruntime.InferenceSession", channels: int, size: int, dim: int, path: Path) -> None:
    """Check name, type and shape of input and output; the first axis is the batch, of any size."""
    for what, nodes, expected in (
        ("input", session.get_inputs(), ("images", "tensor(uint8)", [channels, size, size])),
        ("output", session.get_outputs(), ("embeddings", "tensor(float)", [dim])),
    ):
        found = [(node.name, node.type, node.shape[1:]) for node in nodes]
        if found != [expected] or isinstance(nodes[0].shape[0], int):
            texts = [f"{node.name} {node.type} {node.shape}" for node in nodes]
            name, kind, shape = expected
            raise ExportedModelError(
                f"{path}: expected the {what} {name} {kind} {['batch', *shape]}, got {', '.join(texts) or 'none'}; "
                "export the run again"
            )
