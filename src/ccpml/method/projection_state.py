"""The state of alternating projections, as checkpoints hold it: check it before it is restored."""

from typing import Any, Final

from torch import Tensor

from ccpml.numbers import as_int, check_flags, is_finite

__all__ = ["check_state"]

_TENSORS: Final = ("anchor", "best", "best_buffers")
_STATE: Final = {"started", "waiting", "separation", "instance", "best_score", "stale", *_TENSORS, "best_proxies"}


def check_state(state: Any) -> None:
    """Check that a state has the keys of `AlternatingProjections.state_dict`, and values of their types.

    Further keys, such as those of an older version, do not matter.

    Raises:
        ValueError: If it has not; the message names the key.

    Example:
        >>> check_state(None)
        Traceback (most recent call last):
        ValueError: state: expected what state_dict() returned, got None
    """
    if not isinstance(state, dict):
        raise ValueError(f"state: expected what state_dict() returned, got {_kind(state)}")
    missing = _STATE - state.keys()
    if missing:
        raise ValueError(f"state: expected the keys of state_dict(), got none for {sorted(missing)}")
    check_flags(**{f"state[{name!r}]": state[name] for name in ("started", "waiting")})
    as_int("state['instance']", state["instance"], least=-1)
    as_int("state['stale']", state["stale"], least=0)
    for name in ("separation", "best_score"):
        if not (state[name] is None or is_finite(state[name])):
            raise ValueError(f"state[{name!r}]: expected a finite number or None, got {state[name]!r}")
    for name in _TENSORS:
        value = {} if name == "anchor" and state[name] is None else state[name]
        others = (
            [each for each in value.values() if not isinstance(each, Tensor)] if isinstance(value, dict) else [value]
        )
        if others:
            raise ValueError(f"state[{name!r}]: expected tensors by name, got {_kind(others[0])}")
    if not isinstance(state["best_proxies"], Tensor | None):
        raise ValueError(f"state['best_proxies']: expected a tensor or None, got {_kind(state['best_proxies'])}")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
