"""How to load an exported model, as code for its model card."""

import json
from typing import Final

from ccpml.exported.description import Description

__all__ = ["usage"]

_WITH_CCPML: Final = {
    "onnx": """\
from ccpml.exported.model import ExportedModel  # needs onnxruntime, and no torch

model = ExportedModel("{name}")
embeddings = model.embed(["query.jpg"])  # float32, (1, {dim})
""",
    "safetensors": """\
import torch
from ccpml import EmbeddingModel, lipschitz_normalize
from ccpml.data import EvalTransform, read_image

model, transform = EmbeddingModel.from_pretrained("{name}"), EvalTransform({size}, resize={resize})
pixels = transform(read_image("query.jpg", {channels}, transform.min_size))  # uint8, ({size}, {size}, {channels})
embeddings = lipschitz_normalize(model(torch.tensor(pixels).permute(2, 0, 1)[None]))  # float32, (1, {dim})
""",
}
_WITH_CCPML["hub"] = _WITH_CCPML["safetensors"]

_CROP: Final = """\
import numpy as np
{imports}
from PIL import Image, ImageOps

# ccpml scales 16 bits to 8, and lays what is transparent on white: convert such images first
image = Image.open("query.jpg")
{draft}image = ImageOps.exif_transpose(image).convert("{mode}")
side = {size} / {resize} * min(image.size)  # of the square in the middle that the model sees
left, top = (image.width - side) / 2, (image.height - side) / 2
image = image.resize(({size}, {size}), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
pixels = np.array(image).reshape(1, {size}, {size}, {channels}).transpose(0, 3, 1, 2)  # uint8, (B, C, H, W)
"""

_DRAFT: Final = 'image.draft("L", image.size)  # of a JPEG in color, the luminance that it has itself\n'

_WITHOUT_CCPML: Final = {
    "onnx": (
        "import onnxruntime",
        """\
# from 1.29, onnxruntime reports its use to Microsoft unless ORT_DISABLE_TELEMETRY=1 is set before it is imported
session = onnxruntime.InferenceSession("{name}", providers=["CPUExecutionProvider"])
(embeddings,) = session.run(None, {{"images": pixels}})  # float32, (B, {dim})
""",
    ),
    "pt2": (
        "import torch",
        """\
model = torch.export.load("{name}").module()
embeddings = model(torch.from_numpy(pixels))  # float32, (B, {dim})
""",
    ),
}


def usage(description: Description, file_format: str, name: str) -> str:
    """Return Python that embeds a picture, in blocks of Markdown: with ccpml, and without it."""
    facts = {
        "mode": "L" if description.channels == 1 else "RGB",
        "draft": _DRAFT if description.channels == 1 else "",
        "size": description.size,
        "resize": description.resize,
        "channels": description.channels,
        "dim": description.embedding_dim,
        "name": json.dumps(name, ensure_ascii=False)[1:-1],  # quotes and backslashes are escaped
    }
    blocks = list[str]()
    if file_format in _WITH_CCPML:
        blocks.append(_WITH_CCPML[file_format])
    if file_format in _WITHOUT_CCPML:
        imports, load = _WITHOUT_CCPML[file_format]
        blocks.append(_CROP.replace("{imports}", imports) + load)
    return "\n\nWithout ccpml:\n\n".join(f"```python\n{block.format(**facts)}```" for block in blocks)
