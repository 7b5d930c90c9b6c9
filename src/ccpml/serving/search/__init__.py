"""Search in an index: the nearest rows, queries, and how answers are shown."""

from ccpml.serving.search.nearest import check_fields, passing_rows, search

__all__ = ["check_fields", "passing_rows", "search"]
