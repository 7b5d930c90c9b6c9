"""One typed experiment, its run directory, and the commands that make one.

Imports nothing heavy: the command line reads `Experiment` from here before it knows what to do.
"""

from ccpml.experiments.config import Experiment

__all__ = ["Experiment"]
