"""How a network's output becomes counts: shares of a cell's depth, and a law around them; and counts as an input."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lab import dist
from lab.dist import ZeroInflated, negative_binomial

from .conditions import ConditionEmbedding, Minibatch, level


class CountDecoder(nn.Module):
    """Counts around library * softmax(net(z, y)): proportions from z and y, depth
    from the cell, the scatter from `counts` (NB, ZINB or Poisson)."""

    def __init__(self, net: nn.Module, counts: nn.Module, embed: ConditionEmbedding | None = None):
        super().__init__()
        self.net, self.counts = net, counts
        self.embed = embed or ConditionEmbedding({})
        self.levels = self.embed.levels | getattr(counts, "levels", {})

    def forward(self, z: Tensor, cond: Minibatch) -> Distribution:
        if cond is None or "log_library" not in cond:
            raise ValueError("a count decoder needs log_library (B, 1): pass the minibatch of data.loader")
        rho = self.net(self.embed(z, cond)).softmax(-1)  # (..., B, G)
        mean = cond["log_library"].exp() * rho + 1e-30  # a share may round to 0
        return Independent(self.counts(mean, z, cond), 1)


class NB(nn.Module):
    """Negative binomial around the mean, one theta per gene; with `by`, a condition's
    name and number of levels, one per gene and level. `theta` is where all start."""

    def __init__(self, n_genes: int, *, by: tuple[str, int] | None = None, theta: float = 1.0):
        super().__init__()
        self.by, self.levels = by and by[0], dict([by]) if by else {}
        shape = (*self.levels.values(), n_genes)
        self.log_theta = nn.Parameter(torch.full(shape, theta).log())

    def forward(self, mean: Tensor, z: Tensor, cond: Minibatch) -> Distribution:
        log_theta = level(self.log_theta, cond, self.by) if self.by else self.log_theta
        return negative_binomial(mean, log_theta.exp(), validate_args=False)


class ZINB(NB):
    """NB with an extra probability of zero whose logits are linear in z."""

    def __init__(self, n_genes: int, n_latent: int, *, by: tuple[str, int] | None = None, theta: float = 1.0):
        super().__init__(n_genes, by=by, theta=theta)
        self.gate = nn.Linear(n_latent, n_genes)
        # 5 %, nearly NB: Adam moves a logit by no more than lr a step
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, mean: Tensor, z: Tensor, cond: Minibatch) -> Distribution:
        return ZeroInflated(super().forward(mean, z, cond), self.gate(z))


class Poisson(nn.Module):
    """Poisson around the mean: counting noise and nothing else."""

    def forward(self, mean: Tensor, z: Tensor, cond: Minibatch) -> Distribution:
        return dist.Poisson(mean, validate_args=False)


class Log1pRelative(nn.Module):
    """log(1 + x / the cell's mean count): of order one for a gene of average
    abundance, at any depth, single cell or bulk."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / x.mean(-1, keepdim=True)).log1p()
