"""Upkeep of data sets: check, fetch and verify."""
