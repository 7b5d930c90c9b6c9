"""One experiment: settings, run directory, inference."""
