"""Many runs under one protocol: cells, ensembles, tables."""
