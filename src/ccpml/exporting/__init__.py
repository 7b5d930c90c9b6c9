"""Export a run to a format that other software reads."""

from ccpml.exporting.export import FORMATS, Export, ExportError, default_target, export_run

__all__ = ["FORMATS", "Export", "ExportError", "default_target", "export_run"]
