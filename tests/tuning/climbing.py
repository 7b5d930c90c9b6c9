"""A fake training function: its score is known, and rises from validation to validation."""

import math

STEPS = 4


def height(settings):
    strength = settings.projections.strength
    return math.exp(-((math.log10(strength) + 3) ** 2)) * (1 - 1 / (1 + settings.proxies_per_class))


def climb(settings, path, watcher):
    """Like a training: validations at steps 2, 4, ...; validations before a resume are reported again."""
    for validation in range(1, STEPS + 1):
        if watcher.report(2 * validation, height(settings) * validation / STEPS, validation == STEPS):
            break
    return max(watcher.scores.values())
