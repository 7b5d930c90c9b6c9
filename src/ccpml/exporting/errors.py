"""What can fail in an export."""

__all__ = ["ExportError", "TargetExistsError"]


class ExportError(ValueError):
    """A run cannot be exported, or the exported model differs from the run. Nothing is written."""


class TargetExistsError(FileExistsError):
    """Something exists where an export would be written."""
