"""Chains with an accept step: whatever the step, their law is exp(log_prob), up to a constant.

`log_prob` takes x (B, ...) and gives (B,); each sampler yields x and which of the B moved, (B,) bool.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lab.errors import Refused
from lab.path import like

LogProb = Callable[[Tensor], Tensor]
Moves = Iterator[tuple[Tensor, Tensor]]


@torch.no_grad()
def mala(log_prob: LogProb, x: Tensor, *, step: float, n_steps: int) -> Moves:
    """Langevin's step as a proposal, accepted with the Metropolis-Hastings probability (Roberts & Tweedie 1996): the
    law of the chain is exp(log_prob), up to a constant, whatever the step.

    `log_prob` takes x (B, ...) and gives (B,). Yields x and which of the B moved, (B,) bool. Raises `Refused` for a
    step that is not positive, and for a log_prob of another shape or not finite at the start; later, a proposal at
    which it or its gradient is not finite is rejected.
    """
    log_p, score = _start("MALA", log_prob, x, step, n_steps)

    def log_q(y: Tensor, x: Tensor, score: Tensor) -> Tensor:
        """Log-density of proposing y from x, up to what x and y share."""
        return -(y - x - step * score).square().flatten(1).sum(1) / (4 * step)

    for _ in range(n_steps):
        y = x + step * score + (2 * step) ** 0.5 * torch.randn_like(x)
        log_p_y, score_y = _value_and_score(log_prob, y)
        log_ratio = log_p_y + log_q(x, y, score_y) - log_p - log_q(y, x, score)
        accepted = torch.rand_like(log_p).log() < log_ratio  # never of a NaN
        x, score = (torch.where(like(accepted, x), new, old) for new, old in ((y, x), (score_y, score)))
        log_p = torch.where(accepted, log_p_y, log_p)
        yield x, accepted


@torch.no_grad()
def hmc(log_prob: LogProb, x: Tensor, *, step: float, n_leapfrog: int, n_steps: int) -> Moves:
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): a fresh momentum, `n_leapfrog` steps of `leapfrog` as a
    proposal, accepted by the error of the energy, which is all that the integrator got wrong.

    One leapfrog step of size sqrt(2 h) is `mala` of step h. Raises and rejects as `mala` does.
    """
    log_p, _ = _start("HMC", log_prob, x, step, min(n_steps, n_leapfrog))
    for _ in range(n_steps):
        m = torch.randn_like(x)
        y, after = leapfrog(lambda x: _value_and_score(log_prob, x)[1], x, m, step=step, n=n_leapfrog)
        log_p_y = log_prob(y)
        log_ratio = log_p_y - log_p + (m.square() - after.square()).flatten(1).sum(1) / 2  # -dH
        accepted = torch.rand_like(log_p).log() < log_ratio  # never of a NaN
        x, log_p = torch.where(like(accepted, x), y, x), torch.where(accepted, log_p_y, log_p)
        yield x, accepted


def leapfrog(score: Callable[[Tensor], Tensor], x: Tensor, m: Tensor, *, step: float, n: int) -> tuple[Tensor, Tensor]:
    """`n` steps along dx = m, dm = score(x), m the momentum: half a kick, then drifts with kicks between them, and half
    a kick. Second order, keeps volume, and is undone by n steps from (x, -m). Returns x and m."""
    m = m + step / 2 * score(x)
    for i in range(n):
        x = x + step * m
        m = m + (step if i < n - 1 else step / 2) * score(x)
    return x, m


def _start(name: str, log_prob: LogProb, x: Tensor, step: float, n_steps: int) -> tuple[Tensor, Tensor]:
    """log_prob and its gradient where a chain starts, or why it cannot."""
    if not (step > 0 and n_steps >= 1):
        raise Refused(f"{name} takes n_steps >= 1 of a positive size, got {n_steps} of step {step:.3g}")
    log_p, score = _value_and_score(log_prob, x)
    if not (log_p.isfinite().all() and score.isfinite().all()):
        raise Refused(
            "log_prob or its gradient is not finite where a chain starts: start where the density is positive"
        )
    return log_p, score


def _value_and_score(log_prob: LogProb, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = log_prob(x)
        if log_p.shape != x.shape[:1]:
            raise Refused(
                f"log_prob gives one number a row, {tuple(x.shape[:1])} for x {tuple(x.shape)}; got "
                f"{tuple(log_p.shape)}"
            )
        (score,) = torch.autograd.grad(log_p.sum(), x)
    return log_p.detach(), score
