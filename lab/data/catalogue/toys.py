"""Two-dimensional toys whose density and score are known exactly, also after noise has been added.

A toy is an object: `sample(n, seed)` gives AnnData with X in R^2 and `obs["component"]`; `log_prob(x)` (B,) and
`score(x)` (B, 2) take tensors (B, 2). `noised(alpha, sigma)` is the toy of alpha x0 + sigma eps: what a diffusion model
sees at one time. Moons and rings are mixtures of many Gaussians strung along a curve, so close together that no test
can see the beads; the sampler draws from that same mixture.
"""

from dataclasses import dataclass, replace
from math import ceil, log, pi, sqrt

import anndata as ad
import numpy as np
import torch
from torch import Tensor

from ..card import Card

LOG_2PI = log(2 * pi)
CARD = Card(
    call="toys.moons() and four more", kind="simulated", cells=None, genes=2, licence="none needed", source=__name__
)


@dataclass(frozen=True)
class Mixture:
    """Gaussians N(means_k, std_k^2 I) with `weights` (K,), `means` (K, 2), `std` (K,); `component` (K,) names what a
    sample belongs to.
    """

    weights: Tensor
    means: Tensor
    std: Tensor
    component: tuple[str, ...]

    def sample(self, n: int, seed: int = 0) -> ad.AnnData:
        random = np.random.default_rng(seed)
        k = random.choice(len(self.weights), size=n, p=self.weights.numpy())
        x = self.means.numpy()[k] + self.std.numpy()[k, None] * random.standard_normal((n, 2))
        return _adata(x, np.asarray(self.component)[k])

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_joint(x).logsumexp(-1)

    def score(self, x: Tensor) -> Tensor:
        """sum_k p(k | x) (means_k - x) / std_k^2."""
        posterior = self._log_joint(x).softmax(-1) / self.std.to(x) ** 2  # (B, K)
        return posterior @ self.means.to(x) - posterior.sum(-1, keepdim=True) * x

    def noised(self, alpha: float, sigma: float) -> "Mixture":
        return replace(self, means=alpha * self.means, std=(alpha**2 * self.std**2 + sigma**2).sqrt())

    def _log_joint(self, x: Tensor) -> Tensor:
        means, std = self.means.to(x), self.std.to(x)
        distance = (x[:, None] - means).square().sum(-1)  # (B, K)
        return self.weights.to(x).log() - distance / (2 * std**2) - 2 * std.log() - LOG_2PI


@dataclass(frozen=True)
class Squares:
    """Uniform on squares with lower corners `corners` (K, 2) and side `side`, plus N(0, std^2 I): a density of
    differences of erf.
    """

    corners: Tensor
    side: float
    std: float

    def sample(self, n: int, seed: int = 0) -> ad.AnnData:
        random = np.random.default_rng(seed)
        k = random.integers(len(self.corners), size=n)
        x = self.corners.numpy()[k] + self.side * random.random((n, 2)) + self.std * random.standard_normal((n, 2))
        return _adata(x, k.astype(str))

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_edges(x)[0].sum(-1).logsumexp(-1) - log(len(self.corners) * self.side**2)

    def score(self, x: Tensor) -> Tensor:
        """sum_k p(k | x) (phi(a) - phi(b)) / (std (Phi(b) - Phi(a))), a and b the edges of square k seen from x, per
        coordinate.
        """
        log_mass, a, b = self._log_edges(x)  # (B, K, 2)
        posterior = log_mass.sum(-1).softmax(-1)[..., None]
        pull = (-(a**2) / 2 - LOG_2PI / 2 - log_mass).exp() - (-(b**2) / 2 - LOG_2PI / 2 - log_mass).exp()
        return (posterior * pull).sum(1) / self.std

    def noised(self, alpha: float, sigma: float) -> "Squares":
        return Squares(alpha * self.corners, alpha * self.side, sqrt(alpha**2 * self.std**2 + sigma**2))

    def _log_edges(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = (self.corners.to(x) - x[:, None]) / self.std  # (B, K, 2)
        b = a + self.side / self.std
        low, high = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)  # the tail on the left loses no digits
        top, bottom = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return top + torch.log1p(-(bottom - top).exp()), a, b


def gaussian_mixture(
    weights=(0.2, 0.5, 0.3), means=((-2.0, 0.0), (1.0, 1.5), (1.5, -1.5)), std: float = 0.4
) -> Mixture:
    """A few Gaussians of unequal weight: the set on which samplers that ignore weights are caught."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return Mixture(
        weights / weights.sum(),
        torch.tensor(means, dtype=torch.float64),
        torch.full((len(weights),), std, dtype=torch.float64),
        tuple(str(k) for k in range(len(weights))),
    )


def eight_gaussians(radius: float = 2.0, std: float = 0.2) -> Mixture:
    """Eight equal Gaussians on a circle."""
    return gaussian_mixture((1.0,) * 8, (radius * _circle(8)).tolist(), std)


def rings(radii=(1.0, 2.0), std: float = 0.1) -> Mixture:
    """Concentric circles of equal weight, blurred by N(0, std^2 I). Beads 2/3 std apart: the ripple between them is
    below 1e-12.
    """
    return _beads([radius * _circle(ceil(3 * pi * radius / std)) for radius in radii], std)


def moons(std: float = 0.1, scale: float = 1.0) -> Mixture:
    """Two interleaved half circles of radius `scale`, blurred by N(0, std^2 I), with the origin between them. Beads std
    / 3 apart.
    """
    beads = ceil(3 * pi * scale / std)
    angle = torch.pi * (torch.arange(beads, dtype=torch.float64) + 0.5) / beads
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], -1)
    return _beads([scale * upper, -scale * upper], std)


def checkerboard(side: float = 1.0, std: float = 0.03) -> Squares:
    """Eight squares of a 4 x 4 board around the origin, with edges softened by N(0, std^2 I) so that a score exists."""
    corners = [(i - 2, j - 2) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return Squares(side * torch.tensor(corners, dtype=torch.float64), side, std)


def _circle(n: int) -> Tensor:
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], -1)


def _beads(curves: list[Tensor], std: float) -> Mixture:
    weights = torch.cat(
        [torch.full((len(curve),), 1 / (len(curves) * len(curve)), dtype=torch.float64) for curve in curves]
    )
    return Mixture(
        weights,
        torch.cat(curves),
        torch.full((len(weights),), std, dtype=torch.float64),
        tuple(str(i) for i, curve in enumerate(curves) for _ in curve),
    )


def _adata(x: np.ndarray, component: np.ndarray) -> ad.AnnData:
    toy = ad.AnnData(x.astype(np.float32))
    toy.var_names = ["x1", "x2"]
    toy.obs["component"] = component
    toy.obs["component"] = toy.obs["component"].astype("category")
    toy.uns["unit"] = "arbitrary length"
    return toy
