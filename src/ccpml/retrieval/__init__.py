"""Neighbours and exact retrieval metrics."""
