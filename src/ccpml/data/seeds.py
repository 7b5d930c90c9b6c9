"""One rule for all randomness of the data: a generator is a pure function of a purpose and a few integers.

Nothing is carried from call to call, so a run that resumes at step 1,000, or that reads with four workers
instead of none, sees the very same images and crops.
"""

from typing import Final

import numpy as np

__all__ = ["CLASSES", "CROPS", "POOL", "SAMPLES", "generator"]

CLASSES: Final = 1
SAMPLES: Final = 2
POOL: Final = 3
CROPS: Final = 4

_WORD: Final = 0xFFFFFFFF


def generator(purpose: int, *key: int) -> np.random.Generator:
    """Make the generator of a purpose and a key.

    Args:
        purpose: One of this module's constants, so that streams of different purposes never meet.
        *key: Integers of up to 64 bits; negative ones are allowed and differ from their positives.

    Example:
        >>> bool(generator(CROPS, 0, -1).random() == generator(CROPS, 0, -1).random())
        True
        >>> bool(generator(CROPS, 0, -1).random() == generator(CROPS, 0, 1).random())
        False
    """
    # Two words for each integer: keys of one length can then never be spelled by the same words.
    words = [purpose]
    for part in key:
        words += [part & _WORD, (part >> 32) & _WORD]
    entropy = np.array(words, np.uint32)  # a list of words is the same, in four times the time
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
