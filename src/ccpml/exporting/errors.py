"""What can fail in an export."""

__all__ = ["ExportError"]


class ExportError(ValueError):
    """A run cannot be exported, or the exported model differs from the run. Nothing is written."""
