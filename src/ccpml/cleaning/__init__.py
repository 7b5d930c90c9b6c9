"""Problems of a set of pictures: copies, leaks, probable label errors, outliers, badly covered classes."""

from ccpml.cleaning.problems import Finding, Problems, find_problems

__all__ = ["Finding", "Problems", "find_problems"]
