"""Planning: the actions of least cost, by draws and by gradient. A cost is a function of actions (..., T, A), any model
behind it, that returns (...): one number a plan."""

from collections.abc import Callable

import torch
from torch import Tensor

from lab.errors import Refused

Cost = Callable[[Tensor], Tensor]
Bounds = tuple[float, float]


@torch.no_grad()
def cem(
    cost: Cost,
    start: Tensor,
    *,
    std: float = 1.0,
    n: int = 1000,
    elite: int = 100,
    iterations: int = 60,
    bounds: Bounds | None = None,
) -> Tensor:
    """The cross-entropy method (Rubinstein 1999): draw n plans around `start` (..., T, A), keep the `elite` of least
    cost, take their mean and standard deviation for the next draw. Returns the last mean (..., T, A).

    `cost` gets (n, ..., T, A) and returns (n, ...): problems in the leading axes of `start` are solved together.
    Within `bounds` (low, high) draws are cut off.
    """
    if not 2 <= elite <= n:
        raise Refused(f"the elite are at least 2 and at most all of the n={n} plans; got {elite}")
    mean, spread = start, torch.full_like(start, std)
    for _ in range(iterations):
        plans = mean + spread * torch.randn(n, *start.shape, dtype=start.dtype)
        plans = plans if bounds is None else plans.clamp(*bounds)
        best = _of(cost, plans).topk(elite, 0, largest=False).indices[..., None, None]
        chosen = plans.gather(0, best.expand(elite, *start.shape))
        mean, spread = chosen.mean(0), chosen.std(0)
    return mean


def descend(
    cost: Cost, start: Tensor, *, n: int = 100, lr: float | None = None, bounds: Bounds | None = None
) -> Tensor:
    """Actions (..., T, A) by descent on `cost` through the model, from `start`: n iterations of L-BFGS, or with `lr`
    n steps of Adam, which a cost with draws in it needs. Within `bounds` (low, high) by a sigmoid, from a `start`
    inside them."""
    free = start.detach().clone()
    if bounds is not None:
        low, high = bounds
        if not ((start > low) & (start < high)).all():
            raise Refused(f"descent within {bounds} starts inside, where there is a gradient; got a start on the edge")
        free = ((start - low) / (high - low)).logit()
    to_actions = lambda u: u if bounds is None else low + (high - low) * u.sigmoid()
    free.requires_grad_()
    if lr is None:
        optimizer = torch.optim.LBFGS([free], max_iter=n, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    else:
        optimizer = torch.optim.Adam([free], lr=lr)

    def closure():
        optimizer.zero_grad()
        total = _of(cost, to_actions(free)).sum()
        (free.grad,) = torch.autograd.grad(total, free)  # the model's own parameters are left alone
        return total

    for _ in range(1 if lr is None else n):
        optimizer.step(closure)
    return to_actions(free).detach()


def _of(cost: Cost, plans: Tensor) -> Tensor:
    found = cost(plans)
    if found.shape != plans.shape[:-2] or not found.isfinite().all():
        raise Refused(
            f"a cost of plans {tuple(plans.shape)} is finite and {tuple(plans.shape[:-2])}, one number each; got "
            f"{tuple(found.shape)}"
        )
    return found
