"""Plain networks: layers, a network of x, t and cond, a linear map within a mask."""

import math

import torch
from torch import Tensor, nn

from .conditions import ConditionEmbedding, Minibatch


def mlp(*sizes: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers of the given sizes with an activation between each two: mlp(2, 64, 1) has one hidden layer."""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] -> (B, n): sines and cosines at geometric frequencies (Vaswani et al. 2017), from one period
    over the unit interval to `fastest` periods."""

    def __init__(self, n: int, fastest: float = 1000.0):
        super().__init__()
        if n % 2:
            raise ValueError(f"a time embedding pairs sines with cosines: n must be even, got {n}")
        self.register_buffer("frequency", 2 * math.pi * torch.logspace(0, math.log10(fastest), n // 2))

    def forward(self, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequency  # (B, n / 2)
        return torch.cat([phase.sin(), phase.cos()], -1)


class MLP(nn.Module):
    """net(x, t, cond): x (B, D), t () or (B,), cond the minibatch -> (B, n_out); time, and the conditions of `embed`,
    enter every layer."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_hidden: int = 128,
        n_layers: int = 3,
        embed: ConditionEmbedding | None = None,
        n_time: int = 32,
    ):
        super().__init__()
        self.time, self.embed = TimeEmbedding(n_time), embed or ConditionEmbedding({})
        sizes = [n_in] + n_layers * [n_hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.shifts = nn.ModuleList(nn.Linear(n_time + self.embed.n, n_hidden) for _ in range(n_layers))
        self.out = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        context = self.embed(self.time(t.expand(len(x))), cond)  # (B, n_time + n)
        for layer, shift in zip(self.layers, self.shifts):
            x = nn.functional.silu(layer(x) + shift(context))  # (B, H)
        return self.out(x)


class MaskedLinear(nn.Module):
    """z (..., K) -> (..., G) by a weight that exists only where `mask` (G, K) is not 0, plus a bias per gene.

    `nonnegative`: weights are above 0, so that more of z_k is more of every gene in programme k, and its sign is fixed.
    """

    def __init__(self, mask: Tensor, nonnegative: bool = False):
        super().__init__()
        mask = torch.as_tensor(mask, dtype=torch.float32)
        if mask.dim() != 2 or not mask.any() or mask.isnan().any():
            raise ValueError(
                f"a mask is a table genes x programmes without NaN, not all 0; got shape {tuple(mask.shape)}"
            )
        self.register_buffer("mask", (mask != 0).float())
        self.nonnegative, (n_genes, n_programmes) = nonnegative, self.mask.shape
        self.raw = nn.Parameter(torch.randn(n_genes, n_programmes) / math.sqrt(n_programmes))
        self.bias = nn.Parameter(torch.zeros(n_genes))

    @property
    def weight(self) -> Tensor:
        """(G, K), 0 outside the mask."""
        return self.mask * (nn.functional.softplus(self.raw) if self.nonnegative else self.raw)

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight, self.bias)
