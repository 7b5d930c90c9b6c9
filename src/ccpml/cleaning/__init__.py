"""Find duplicates, probable label errors and outliers in labeled images."""
