"""Gaussian probability paths: x_t = alpha(t) x0 + sigma(t) eps.

Time runs from data (t = 0) to noise (t = 1). Every diffusion and flow model in the book is one `Path` plus one choice
of what the network predicts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Path:
    """A Gaussian path, given by two functions of time. Nothing else is stored."""

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]

    def interpolate(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The point x_t between data x0 and noise eps, both (B, ...), at t () or (B,)."""
        return like(self.alpha(t), x0) * x0 + like(self.sigma(t), x0) * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt with x0 and eps held fixed: the flow-matching target."""
        da, ds = self._rates(t, x0)
        return da * x0 + ds * eps

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2); infinite where one of the two is zero."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def split(self, x: Tensor, t: Tensor, **prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Recover (x0, eps) from x_t and exactly one of eps=, x0=, score=, velocity=.

        Raises ValueError at the times where that prediction does not determine both: eps and score where alpha = 0
        (pure noise), x0 where sigma = 0 (clean data).
        """
        ((kind, y),) = prediction.items()
        a, s = like(self.alpha(t), x), like(self.sigma(t), x)
        if kind == "x0":
            return y, (x - a * y) / _nonzero(s, "sigma(t) = 0: clean data say nothing of eps; stop at a time above 0")
        if kind == "eps":
            return (x - s * y) / _nonzero(a, _PURE_NOISE), y
        if kind == "score":
            return (x + s**2 * y) / _nonzero(a, _PURE_NOISE), -s * y
        if kind == "velocity":
            da, ds = self._rates(t, x)
            det = _nonzero(
                a * ds - da * s, "x_t and its velocity are parallel here, so they do not determine x0 and eps"
            )
            return (ds * x - s * y) / det, (a * y - da * x) / det
        raise ValueError(f"a network predicts eps, x0, score or velocity; got {kind!r}")

    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        da, ds = like(rate(self.alpha, t), x), like(rate(self.sigma, t), x)
        if not (da.isfinite().all() and ds.isfinite().all()):
            raise ValueError("the path's velocity is infinite here (vp at t = 0): use times above 0")
        if not ((da != 0) | (ds != 0)).all():
            raise ValueError("a discrete path has no velocity; predict eps, x0 or the score")
        return da, ds


_PURE_NOISE = "alpha(t) = 0: pure noise says nothing of x0; start below t = 1, or predict x0 or the velocity"


def _nonzero(d: Tensor, why: str) -> Tensor:
    if (d.abs() < 4 * torch.finfo(d.dtype).eps).any():
        raise ValueError(why)
    return d


@torch.no_grad()
def when(path: Path, levels: Tensor | float) -> Tensor:
    """The times, of the shape of `levels`, at which the path's log_snr has these values, by bisection: it falls."""
    levels = torch.as_tensor(levels)
    low, high = torch.zeros_like(levels).double(), torch.ones_like(levels).double()
    for _ in range(50):
        middle = (low + high) / 2
        early = path.log_snr(middle) > levels
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return middle.to(levels.dtype)


def like(t: Tensor, x: Tensor) -> Tensor:
    """View t (B,) or () so that it broadcasts over x (B, ...)."""
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim())) if t.dim() else t


def rate(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt by forward-mode differentiation, so that no path carries a hand-written derivative."""
    t = t.contiguous()
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


def linear() -> Path:
    """alpha = 1 - t, sigma = t: flow matching and rectified flow."""
    return Path(alpha=lambda t: 1 - t, sigma=lambda t: t)


def cosine() -> Path:
    """alpha = cos, sigma = sin of pi t / 2 (Nichol & Dhariwal 2021, without their offset)."""
    return Path(alpha=lambda t: (math.pi / 2 * t).cos(), sigma=lambda t: (math.pi / 2 * t).sin())


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Variance preserving, the continuous limit of DDPM's linear betas (Song et al. 2021, eq. 33)."""

    def log_alpha_bar(t):
        return -beta_min * t - 0.5 * (beta_max - beta_min) * t**2

    return Path(alpha=lambda t: (0.5 * log_alpha_bar(t)).exp(), sigma=lambda t: (-torch.expm1(log_alpha_bar(t))).sqrt())


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """The alpha of `vp` with its sigma squared, 1 - alpha^2: less noise at every time (Song et al. 2021, sub-VP)."""
    alpha = vp(beta_min, beta_max).alpha
    return Path(alpha=alpha, sigma=lambda t: -torch.expm1(2 * alpha(t).log()))


def ve(sigma_min: float = 0.01, sigma_max: float = 10.0) -> Path:
    """Variance exploding: alpha = 1, sigma geometric from sigma_min to sigma_max (Song et al. 2021)."""
    return Path(alpha=torch.ones_like, sigma=lambda t: sigma_min * (sigma_max / sigma_min) ** t)


def edm(sigma_max: float = 80.0) -> Path:
    """alpha = 1 and noise proportional to time (Karras et al. 2022)."""
    return Path(alpha=torch.ones_like, sigma=lambda t: sigma_max * t)


def ddpm(betas: Tensor) -> Path:
    """DDPM's discrete chain: t = i/T looks up alpha_bar_i of betas (T,), with alpha_bar_0 = 1 (Ho et al. 2020)."""
    alpha_bar = torch.cat([betas.new_ones(1).double(), torch.cumprod(1 - betas.double(), 0)])

    def at(t):
        return alpha_bar.to(t.device)[(t * len(betas)).round().long()].to(t.dtype)

    return Path(alpha=lambda t: at(t).sqrt(), sigma=lambda t: (1 - at(t)).sqrt())
