"""Filters of a search: a small language, its tree, and the tree as SQL with bound parameters."""

from ccpml.serving.filters.tree import Filter, FilterError

__all__ = ["Filter", "FilterError"]
