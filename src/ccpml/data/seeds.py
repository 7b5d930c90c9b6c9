"""Random generators that are pure functions of a purpose and a few integers.

There is no state between calls, so that a resumed run, or one with another number of workers, sees the same images
and crops.
"""

import operator
from typing import Final

import numpy as np

__all__ = ["CLASSES", "CROPS", "POOL", "SAMPLES", "generator"]

CLASSES: Final = 1
SAMPLES: Final = 2
POOL: Final = 3
CROPS: Final = 4

_WORD: Final = 0xFFFFFFFF


def generator(purpose: int, *key: int) -> np.random.Generator:
    """Return the generator of a purpose and a key.

    Args:
        purpose: One of the constants of this module; different purposes have independent streams.
        *key: Integers of up to 64 bits, positive or negative.

    Example:
        >>> bool(generator(CROPS, 0, -1).random() == generator(CROPS, 0, -1).random())
        True
        >>> bool(generator(CROPS, 0, -1).random() == generator(CROPS, 0, 1).random())
        False
    """
    # Two words per integer, so that different keys of one length never have the same words.
    words = [purpose]
    for part in map(operator.index, key):
        words += [part & _WORD, (part >> 32) & _WORD]
    entropy = np.array(words, np.uint32)  # the same stream as from a list, in a quarter of the time
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
