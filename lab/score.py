"""Two gradients of one log-density, in its parameters (Fisher) and in the data (Stein), and score matching without
noise: explicit and sliced. `denoise` has the matching that works by noise.

A score is a callable: x (B, D) -> (B, D). At one time of a denoiser it is `lambda x: denoiser.score(x, t)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lab.denoise import Denoiser
from lab.nets import Minibatch
from lab.path import like

Score = Callable[[Tensor], Tensor]


def fisher(log_prob: Callable[[Tensor, Tensor], Tensor], theta: Tensor, x: Tensor) -> Tensor:
    """d log p(x; theta) / d theta, (B, P), of each cell of x (B, ...), for `log_prob(theta, x) -> (B,)` and theta (P,).

    At the true theta its mean is 0 and its covariance the Fisher information of one cell. Forward mode, one pass a
    parameter: switch off the checks of torch's distributions (`validate_args=False`).
    """
    if theta.dim() != 1 or not theta.is_floating_point():
        raise ValueError(f"theta is one vector (P,) of numbers; got {tuple(theta.shape)} {theta.dtype}")
    columns = [_along(lambda p: log_prob(p, x), theta, direction) for direction in torch.eye(len(theta)).to(theta)]
    if columns[0].shape != x.shape[:1]:
        raise ValueError(f"log_prob gives one number a cell, ({len(x)},); got {tuple(columns[0].shape)}")
    return torch.stack(columns, -1)


def stein(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """grad_x log p(x), of the shape of x (B, ...), for `log_prob(x) -> (B,)`, which need not be normalised."""
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}: whole numbers have no direction to move in; a score is of real-valued data")
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(log_prob(x).sum(), x)[0]


def divergence(score: Score, x: Tensor) -> Tensor:
    """sum_i d score_i / d x_i, (B,): exact, in D passes."""
    basis = torch.eye(x.shape[-1]).to(x)
    return sum(_along(score, x, e.expand_as(x))[:, i] for i, e in enumerate(basis))


def hutchinson(score: Score, x: Tensor, v: Tensor) -> Tensor:
    """v . (d score / d x) v, (B,), in one pass: for random directions v (B, D) with E[v v^T] = I its mean is the
    divergence (Hutchinson 1990)."""
    if v.shape != x.shape:
        raise ValueError(f"one direction a cell: v is {tuple(v.shape)} and x {tuple(x.shape)}")
    return (v * _along(score, x, v)).sum(-1)


def explicit_loss(score: Score, b: Minibatch) -> dict[str, Tensor]:
    """mean of |s|^2 + 2 div s (Hyvarinen 2005, eq. 4, times 2): E|s - s*|^2 less the constant E|s*|^2, for a score s*
    of data whose density is smooth and vanishes at the end of its range."""
    x = _cells(b)
    return {"loss": (score(x).square().sum(-1) + 2 * divergence(score, x)).mean()}


def sliced_loss(score: Score, b: Minibatch) -> dict[str, Tensor]:
    """`explicit_loss` with the divergence along one random direction of signs a cell: the same in expectation, at one
    pass whatever D is (Song et al. 2019, eq. 8: the variant of reduced variance)."""
    x = _cells(b)
    v = torch.randint_like(x, 2) * 2 - 1  # of all directions with E[v v^T] = I those that scatter least
    return {"loss": (score(x).square().sum(-1) + 2 * hutchinson(score, x, v)).mean()}


def posterior_covariance(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """Cov[x0 | x_t = x], (B, D, D), by Tweedie's formula of second order: sigma^2 / alpha times the Jacobian of the
    denoised cell. Exact for an exact denoiser; a trained one's need not be symmetric or positive."""
    columns = [_along(lambda y: denoiser(y, t)[0], x, e.expand_as(x)) for e in torch.eye(x.shape[-1]).to(x)]
    alpha, sigma = denoiser.path.alpha(t), denoiser.path.sigma(t)
    if (alpha == 0).any():
        raise ValueError("alpha(t) = 0: pure noise says nothing of x0, whose covariance is then the data's")
    return like(sigma**2 / alpha, x[..., None]) * torch.stack(columns, -1)


def _along(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """The derivative of f at x along v, by forward mode; it can be differentiated again."""
    return torch.func.jvp(f, (x,), (v,))[1]


def _cells(b: Minibatch) -> Tensor:
    x = b.get("x")
    if x is None or x.dim() != 2 or not x.is_floating_point():
        got = "none" if x is None else f"{tuple(x.shape)} {x.dtype}"
        raise ValueError(f"score matching takes real-valued cells b['x'] (B, D); got {got}")
    return x
