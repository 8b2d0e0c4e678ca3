"""Samplers. Each is a generator: it yields x after every step, and the last one is the sample.

    sampler(field, x, times, ...) -> Iterator[Tensor]

where field(x, t) is what a chapter learned: a denoiser, a velocity or a score.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lab.path import Path

Field = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def ddim(denoise, x: Tensor, times: Tensor, path: Path, eta: float = 0.0) -> Iterator[Tensor]:
    """Split x_t into (x0, eps), mix them again at the next, smaller time s (Song, Meng & Ermon 2021, eq. 12).

    `denoise(x, t) -> (x0, eps)`; `times` (n,) decrease. eta = 0 follows the probability-flow ODE, eta = 1 is DDPM's
    ancestral chain: exactly its posterior mean and variance.
    """
    for t, s in pairwise(times):
        x0, eps = denoise(x, t)
        a_t, a_s, sigma_t, sigma_s = path.alpha(t), path.alpha(s), path.sigma(t), path.sigma(s)
        fresh = eta * sigma_s / sigma_t * (sigma_t**2 - (a_t / a_s * sigma_s) ** 2).clamp(min=0).sqrt()
        x = a_s * x0 + (sigma_s**2 - fresh**2).clamp(min=0).sqrt() * eps + fresh * torch.randn_like(x)
        yield x


@torch.no_grad()
def euler(velocity: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Follow dx/dt = velocity(x, t) through `times`, one evaluation a step, first order."""
    for t, s in pairwise(times):
        x = x + (s - t) * velocity(x, t)
        yield x


@torch.no_grad()
def heun(velocity: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Follow dx/dt = velocity(x, t) through `times`, two evaluations a step, second order."""
    for t, s in pairwise(times):
        v = velocity(x, t)
        x = x + (s - t) * (v + velocity(x + (s - t) * v, s)) / 2
        yield x


@torch.no_grad()
def langevin(score: Field, x: Tensor, times: Tensor, step: float, n_steps: int = 1) -> Iterator[Tensor]:
    """Unadjusted Langevin: n_steps of x + step * score + sqrt(2 step) * noise at each of `times`."""
    for t in times:
        for _ in range(n_steps):
            x = x + step * score(x, t) + (2 * step) ** 0.5 * torch.randn_like(x)
        yield x


def last(xs: Iterator[Tensor]) -> Tensor:
    """The last element of a sampler: the sample."""
    x = None
    for x in xs:
        pass
    if x is None:
        raise ValueError("the sampler took no step: pass at least two times")
    return x
