"""Compare runs: differences of scores with intervals, and queries won and lost."""
