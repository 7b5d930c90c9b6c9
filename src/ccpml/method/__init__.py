"""The paper: each equation once, in PyTorch alone."""
