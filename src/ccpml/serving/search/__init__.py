"""Search in an index: the nearest rows, queries, and how answers are shown."""
