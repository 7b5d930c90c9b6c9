"""Image tables, folds, samplers, transforms and the embedded data set."""
