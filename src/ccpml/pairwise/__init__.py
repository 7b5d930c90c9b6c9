"""The engine under the pair losses: all pairs of a batch and its references, block by block."""
