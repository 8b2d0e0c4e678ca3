"""Denoising diffusion: the chain's posterior, the variational bound on log p(x0) and its parts, and schedules.

Nothing here is a model of its own. A `Path` is the chain, a `Denoiser` the network, and the chain of n steps is the
path at n + 1 times: `sample.ddim` with eta = 1 samples it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from lab.denoise import Denoiser
from lab.nets import Minibatch
from lab.path import Path, like, rate

FLOOR = 1e-3  # of 1 - alpha_bar_i / alpha_bar_(i-1): Nichol & Dhariwal (2021) keep betas below 1 - FLOOR


def linear_betas(n: int = 1000, *, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """The noise added by each of n steps, (n,), as Ho et al. (2020) chose it for n = 1000: `path.ddpm(betas)` is the
    chain."""
    return torch.linspace(beta_min, beta_max, n, dtype=torch.float64)


def betas_of(path: Path, n: int) -> Tensor:
    """The chain of n steps that a variance-preserving path makes, (n,): 1 - alpha_bar_i / alpha_bar_(i-1) at times
    i / n, at most 1 - 1e-3. Raises ValueError for a path that does not keep alpha^2 + sigma^2 = 1."""
    t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    alpha_bar = path.alpha(t) ** 2
    if not torch.allclose(alpha_bar + path.sigma(t) ** 2, torch.ones_like(t)):
        raise ValueError("betas belong to a path with alpha^2 + sigma^2 = 1, such as vp or cosine")
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=1 - FLOOR)


def posterior(path: Path, x0: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Normal:
    """q(x_s | x_t = x, x0), s < t, of the Markov chain that the path is: for `path.ddpm` and neighbouring times Ho et
    al. (2020), eq. 6 and 7."""
    a_t, a_s, sigma_t, sigma_s = (like(f(u), x) for f in (path.alpha, path.sigma) for u in (t, s))
    kept = a_t / a_s * sigma_s**2 / sigma_t**2  # of what x differs from alpha_t x0
    std = sigma_s / sigma_t * (sigma_t**2 - (a_t / a_s * sigma_s) ** 2).clamp(min=0).sqrt()
    return Normal(a_s * x0 + kept * (x - a_t * x0), std.expand_as(x), validate_args=False)


@torch.no_grad()
def bound_terms(
    denoiser: Denoiser, x0: Tensor, cond: Minibatch | None = None, *, times: Tensor, prior_std: float = 1.0
) -> dict[str, Tensor]:
    """The parts, in nats, of a bound on -log p(x0) (Ho et al. 2020, eq. 5) for the chain at increasing `times` (n,) in
    (0, 1], with one noise a cell and time:

        `prior` (B,)        KL(q(x_T | x0) || N(0, prior_std^2 I))
        `steps` (B, n - 1)  KL(q(x_s | x_t, x0) || p(x_s | x_t)), from the last time to the first
        `decode` (B,)       -log N(x0; estimate at the first time, sigma^2 / alpha^2 I), Kingma et al. (2021)

    Raises ValueError for times that do not increase, or begin at 0, where data have a density and no noise to lose.
    """
    if times.dim() != 1 or not (times[0] > 0 and (times.diff() > 0).all()):
        raise ValueError(f"a bound's times increase and begin above 0, the last noise that is decoded; got {times}")
    path, first, last = denoiser.path, times[0], times[-1]
    a, sigma = path.alpha(last) * x0, path.sigma(last)
    prior = (a.square() + sigma**2) / prior_std**2 - 1 - 2 * (sigma / prior_std).log()

    def error(t: Tensor) -> Tensor:
        """|eps - estimate|^2 (B,)."""
        eps = torch.randn_like(x0)
        return (denoiser(path.interpolate(x0, eps, t), t, cond)[1] - eps).square().flatten(1).sum(1)

    later = list(zip(times[1:], times[:-1]))[::-1]
    steps = [torch.expm1(path.log_snr(s) - path.log_snr(t)) / 2 * error(t) for t, s in later]
    noise = (path.sigma(first) / path.alpha(first)).square()
    decode = error(first) / 2 + x0[0].numel() / 2 * (2 * torch.pi * noise).log()
    return {
        "prior": prior.flatten(1).sum(1) / 2,
        "steps": torch.stack(steps, 1) if steps else x0.new_zeros(len(x0), 0),
        "decode": decode,
    }


def bound(denoiser: Denoiser, x0: Tensor, cond: Minibatch | None = None, *, times: Tensor, prior_std=1.0) -> Tensor:
    """A lower bound on log p(x0), (B,), in nats, unbiased over its noise; higher is better."""
    parts = bound_terms(denoiser, x0, cond, times=times, prior_std=prior_std)
    return -(parts["prior"] + parts["steps"].sum(1) + parts["decode"])


def likelihood_weight(denoiser: Denoiser) -> Callable[[Tensor], Tensor]:
    """`weight=` of `denoise.loss` that makes it the bound's `steps`, were they infinitely many (Kingma et al. 2021, eq.
    17): -1/2 d log_snr / dt times what turns the error of a prediction into that of eps. Infinite where sigma = 0:
    bring times above 0."""
    path = denoiser.path

    def weight(t: Tensor) -> Tensor:
        a, sigma = path.alpha(t), path.sigma(t)
        in_eps = {
            "eps": lambda: torch.ones_like(t),
            "x0": lambda: a / sigma,
            "score": lambda: sigma,
            "velocity": lambda: a / (a * rate(path.sigma, t) - rate(path.alpha, t) * sigma),
        }[denoiser.predicts]()
        return -rate(path.log_snr, t) / 2 * in_eps**2

    return weight


class Schedule(nn.Module):
    """A path with alpha^2 + sigma^2 = 1 whose log_snr falls from `first` to `last` along straight pieces that are
    learned, as a network's monotone log_snr is in Kingma et al. (2021); it begins as one straight line.

    It stands where a `Path` does. Inside a `Denoiser`, `steps` trains it with the network.
    """

    interpolate, velocity, log_snr, split, _rates = (
        *(Path.interpolate, Path.velocity, Path.log_snr, Path.split, Path._rates),
    )

    def __init__(self, first: float = 10.0, last: float = -10.0, *, n_pieces: int = 32):
        super().__init__()
        if not first > last:
            raise ValueError(f"log_snr falls from data to noise: first must be above last, got {first} and {last}")
        self.first, self.last = first, last
        self.drops = nn.Parameter(torch.zeros(n_pieces))  # softmax: each piece's share of the whole fall

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self._fall(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self._fall(t)).sqrt()

    def _fall(self, t: Tensor) -> Tensor:
        share = self.drops.softmax(0).to(t.dtype)
        at = (t * len(share)).detach().floor().clamp(0, len(share) - 1).long()
        fallen = share.cumsum(0)[at] - share[at] + share[at] * (t * len(share) - at)
        return self.first + (self.last - self.first) * fallen
