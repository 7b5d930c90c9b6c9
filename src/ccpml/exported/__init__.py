"""Models that a run was exported to: they embed images without torch."""

from ccpml.exported.description import Description, DescriptionError

__all__ = ["Description", "DescriptionError"]
