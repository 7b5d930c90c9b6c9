"""Export a run to a format that other software reads."""
