"""Samplers. Each is a generator: it yields x after every step, and the last one is the sample.

    sampler(field, x, times, ...) -> Iterator[Tensor]

where field(x, t) is what a chapter learned: a denoiser, a velocity or a score.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torchdiffeq import odeint

from lab.errors import Refused
from lab.path import Path, rate

Field = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def ddim(denoise, x: Tensor, times: Tensor, path: Path, eta: float = 0.0) -> Iterator[Tensor]:
    """Split x_t into (x0, eps), mix them again at the next, smaller time s (Song, Meng & Ermon 2021, eq. 12).

    `denoise(x, t) -> (x0, eps)`; `times` (n,) decrease. eta = 0 follows the probability-flow ODE, eta = 1 is DDPM's
    ancestral chain: exactly its posterior mean and variance. Random numbers are drawn only where eta is not 0.
    """
    levels = zip(times, map(path.alpha, times), map(path.sigma, times))
    for (t, a_t, sigma_t), (_, a_s, sigma_s) in pairwise(levels):
        x0, eps = denoise(x, t)
        fresh = eta * sigma_s / sigma_t * (sigma_t**2 - (a_t / a_s * sigma_s) ** 2).clamp(min=0).sqrt()
        x = a_s * x0 + (sigma_s**2 - fresh**2).clamp(min=0).sqrt() * eps
        x = x + fresh * torch.randn_like(x) if eta else x
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
def adaptive(velocity: Field, x: Tensor, times: Tensor, *, tol: float = 1e-5) -> Iterator[Tensor]:
    """Follow dx/dt = velocity(x, t), yielding at each of `times`, by steps of the solver's own choice between them, of
    fifth order: Dormand and Prince's pair, as `torchdiffeq` has it (Chen et al. 2018). A step's error, a root mean
    square over all of x, is kept below tol (1 + |x|). Raises `Refused` for a tol that is not positive."""
    if not tol > 0:
        raise Refused(f"the error allowed a step is positive, such as 1e-5; got tol={tol}")
    times = times.to(x)  # a step ends at each: by default the solver runs past the last one, and interpolates
    yield from odeint(lambda t, x: velocity(x, t), x, times, rtol=tol, atol=tol, options={"step_t": times})[1:]


@torch.no_grad()
def euler_maruyama(score: Field, x: Tensor, times: Tensor, path: Path) -> Iterator[Tensor]:
    """Follow the SDE of the path from noise to data through decreasing `times` (Song et al. 2021, eq. 6): each step
    (s - t) (a'/a x - g^2 score) + g sqrt(t - s) noise, with g^2 = 2 sigma sigma' - 2 sigma^2 a'/a. First order."""
    for t, s in pairwise(times):
        shrink = rate(path.alpha, t) / path.alpha(t)
        g2 = 2 * path.sigma(t) * rate(path.sigma, t) - 2 * shrink * path.sigma(t) ** 2
        x = x + (s - t) * (shrink * x - g2 * score(x, t)) + (g2 * (t - s)).sqrt() * torch.randn_like(x)
        yield x


@torch.no_grad()
def likelihood(
    velocity: Field, x: Tensor, times: Tensor, *, prior: Callable[[Tensor], Tensor], v: Tensor | None = None
) -> Tensor:
    """log p(x) (B,) of what `velocity` carries to the law with log-density `prior` along increasing `times`: the prior
    at the end plus the divergence on the way (Chen et al. 2018, eq. 8), by Heun's method.

    The divergence takes D passes, or one along `v` like x, directions with E[v v^T] = I, and is then right in the mean
    (Hutchinson 1990)."""
    if not (times.diff() > 0).all():
        raise Refused("likelihood goes from data to noise: times increase")
    along = [v] if v is not None else [e.expand_as(x) for e in torch.eye(x.shape[1]).to(x)]

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        moved = [torch.func.jvp(lambda y: velocity(y, t), (x,), (e,)) for e in along]
        return moved[0][0], sum((e * slope).sum(1) for e, (_, slope) in zip(along, moved))

    total = 0
    for t, s in pairwise(times):
        v_t, div_t = both(x, t)
        v_s, div_s = both(x + (s - t) * v_t, s)
        x, total = x + (s - t) * (v_t + v_s) / 2, total + (s - t) * (div_t + div_s) / 2
    return prior(x) + total


@torch.no_grad()
def langevin(
    score: Field, x: Tensor, times: Tensor, step: float | Callable[[Tensor], Tensor], n_steps: int = 1
) -> Iterator[Tensor]:
    """Unadjusted Langevin: n_steps of x + step * score + sqrt(2 step) * noise at each of `times`, then a yield.

    A step that is a function of time makes annealed Langevin of decreasing `times` (Song & Ermon 2019, algorithm 1,
    whose alpha is twice our step). Raises `Refused` for a step that is not positive, and where a chain has diverged.
    """
    for t in times:
        h = torch.as_tensor(step(t) if callable(step) else step).to(x)
        if not (h > 0 and n_steps >= 1):
            raise Refused(f"Langevin takes n_steps >= 1 of a positive size, got {n_steps} of step {h:.3g}")
        for _ in range(n_steps):
            x = x + h * score(x, t) + (2 * h).sqrt() * torch.randn_like(x)
        if not x.isfinite().all():
            raise Refused(f"the chain has left for infinity at step size {h:.3g}: take a smaller step")
        yield x


@torch.no_grad()
def predictor_corrector(
    predictor: Callable[[Tensor, Tensor], Iterator[Tensor]], score: Field, x: Tensor, times: Tensor, *, step, n_steps=1
) -> Iterator[Tensor]:
    """After each step of `predictor(x, times)`, any sampler here with its field filled in, n_steps of `langevin` at the
    new time (Song et al. 2021, algorithm 1), whose law does not change if the predictor was right."""
    for two in times.unfold(0, 2, 1):
        x = last(langevin(score, last(predictor(x, two)), two[1:], step, n_steps))
        yield x


def last(xs: Iterator[Tensor]) -> Tensor:
    """The last element of a sampler: the sample."""
    x = None
    for x in xs:
        pass
    if x is None:
        raise ValueError("the sampler took no step: pass at least two times")
    return x
