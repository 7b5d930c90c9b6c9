"""Models that a run was exported to: they embed images without torch."""

from ccpml.exported.certificates import find_certificate
from ccpml.exported.description import Description, DescriptionError
from ccpml.exported.model import ExportedModel, ExportedModelError
from ccpml.exported.onnx_file import is_onnx, read_description

__all__ = [
    "Description",
    "DescriptionError",
    "ExportedModel",
    "ExportedModelError",
    "find_certificate",
    "is_onnx",
    "read_description",
]
