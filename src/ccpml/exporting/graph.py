"""The graph of an exported model: from cropped images to φ-normalized embeddings."""

import torch
from torch import Tensor, nn

from ccpml.exporting.errors import ExportError
from ccpml.method import lipschitz_normalize
from ccpml.models import EmbeddingModel
from ccpml.system_errors import raise_shortage

__all__ = ["BATCH", "INPUT", "OUTPUT", "EmbeddingGraph", "reason_of", "trace"]

INPUT = "images"
OUTPUT = "embeddings"
BATCH = "batch"

_TRACED = 2  # images; a batch of one would be traced as a constant


class EmbeddingGraph(nn.Module):
    """Map images, uint8 (B, C, size, size), to φ-normalized embeddings, float32 (B, d).

    Args:
        model: The network, in eval mode.

    Example:
        >>> from ccpml.models import SmallConv
        >>> graph = EmbeddingGraph(EmbeddingModel(SmallConv(), embedding_dim=16).eval())
        >>> graph(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 16])
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        return lipschitz_normalize(self.model(images).float())


def trace(graph: EmbeddingGraph, size: int) -> torch.export.ExportedProgram:
    """Trace a graph for images (B, C, size, size) with any B of at least 1.

    Raises:
        ExportError: If torch cannot trace the network.
    """
    images = torch.zeros(_TRACED, graph.model.backbone.convention.channels, size, size, dtype=torch.uint8)
    shapes = {INPUT: {0: torch.export.Dim(BATCH, min=1)}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (images,), dynamic_shapes=shapes)
    except Exception as error:  # of the many kinds that torch raises, none is documented
        raise ExportError(f"the network cannot be traced by torch.export ({reason_of(error)})") from error


def reason_of(error: BaseException) -> str:
    """Return the first line of the message of the error that an error of torch follows from.

    Raises:
        KeyboardInterrupt: If it follows from Ctrl-C, which torch turns into an error of its own in places.
    """
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    for each in chain:
        if isinstance(each, KeyboardInterrupt):
            raise type(each)(*each.args) from error
    raise_shortage(chain[-1])
    return str(chain[-1]).strip().partition("\n")[0] or type(chain[-1]).__name__
