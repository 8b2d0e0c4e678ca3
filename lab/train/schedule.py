"""Learning rates that change from step to step: functions of the steps taken so far, for `lr`."""

import math
from collections.abc import Callable


def cosine(lr: float, n: int, *, warm_up: float = 0.05) -> Callable[[int], float]:
    """A learning rate that rises linearly to `lr` over the first `warm_up` of `n` steps, then falls to 0 along half a
    cosine (Loshchilov & Hutter 2017)."""
    rise = round(warm_up * n)
    if not 0 <= rise < n:
        raise ValueError(f"warm_up={warm_up} of n={n} steps: it is the fraction that rises, from 0 to below 1")

    def at(step: int) -> float:
        if step < rise:
            return lr * (step + 1) / rise
        return lr * (1 + math.cos(math.pi * min((step - rise) / (n - rise), 1))) / 2

    return at
