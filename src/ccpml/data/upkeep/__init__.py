"""Checking, fetching and verifying data sets."""
