"""Options of the method that the library, the callback, the settings and the command line share. Imports no torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from ccpml.numbers import is_finite, is_one_of, plain_number

__all__ = ["ProjectionOptions"]


@dataclass(frozen=True, kw_only=True)
class ProjectionOptions:
    """Options of alternating projections.

    Args:
        strength: λ, the strength of the pull towards the last instance's solution.
        decay: The strength in instance k is λ · decay^k. The first instance, k = 0, has no pull.
        patience: Validations without improvement after which an instance has converged.
        min_delta: Smallest difference to the instance's best score that counts as improvement.
        space: Space in which k-center measures distances: raw embeddings, or after the Lipschitz normalization.
        rewind: Whether an instance starts from the best weights of the previous one, rather than from the current.
        reset_proxy_state: Whether the optimizer's state of the proxies is dropped at each projection.
        warm_start: When the first proxies are placed; until then the plain pair loss is trained. never (or None): at
            once, as in the paper; auto: when most samples of the pool are nearer to their own class than to any
            other; a number: after so many steps, rounded up to a validation.

    Raises:
        ValueError: If a value is out of range, or no truth value where one is expected.

    Example:
        >>> ProjectionOptions(strength=1e-3).patience
        3

    Source: Gürbüz et al., WACV 2024, Algorithm 1; the choices it leaves open default to the authors' code.
    """

    strength: float = 2e-4
    decay: float = 1.0
    patience: int = 3
    min_delta: float = 1e-5
    space: Literal["raw", "lipschitz"] = "raw"
    rewind: bool = False
    reset_proxy_state: bool = False
    warm_start: Literal["auto", "never"] | int | None = None

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, plain_number(getattr(self, option.name)))
        is_steps = type(self.warm_start) is int and self.warm_start >= 0
        for name, expected, valid in (
            ("strength", ">= 0", is_finite(self.strength) and self.strength >= 0),
            ("decay", "> 0", is_finite(self.decay) and self.decay > 0),
            ("patience", "an integer >= 1", type(self.patience) is int and self.patience >= 1),
            ("min_delta", ">= 0", is_finite(self.min_delta) and self.min_delta >= 0),
            ("rewind", "True or False", isinstance(self.rewind, bool)),
            ("reset_proxy_state", "True or False", isinstance(self.reset_proxy_state, bool)),
            ("space", "'raw' or 'lipschitz'", is_one_of(self.space, ("raw", "lipschitz"))),
            (
                "warm_start",
                "'auto', 'never' or a number of steps",
                is_steps or is_one_of(self.warm_start, ("auto", "never", None)),
            ),
        ):
            if not valid:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, options: "ProjectionOptions | None", given: dict[str, Any]) -> "ProjectionOptions":
        """Return ``options``, or else those of the fields ``given``.

        Raises:
            ValueError: If both are given, or ``options`` are none.
            TypeError: If a field is not an option.
        """
        if not isinstance(options, cls | None):
            raise ValueError(f"options: expected ProjectionOptions, got {options!r}; pass such as patience=3 by name")
        if options is not None and given:
            raise ValueError(f"options: expected either options or fields, got both (fields: {', '.join(given)})")
        return cls(**given) if options is None else options
