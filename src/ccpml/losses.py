"""The table of losses: one entry per loss, which everything that lists losses reads. Imports no torch."""
