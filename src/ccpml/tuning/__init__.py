"""Optuna studies over settings, scored on validation classes."""
