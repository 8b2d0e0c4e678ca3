"""The parts of a VAE on cells: encoders, decoders, count likelihoods and the embedding of conditions. Put together they
are scVI (Lopez et al. 2018)."""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lab.dist import ZeroInflated, negative_binomial
from lab.nets import mlp

from .bounds import VAE, Batch, gaussian


class ConditionEmbedding(nn.Module):
    """h (..., B, D) -> (..., B, D + n): appends a learned vector per condition.

    `levels` maps each condition's name to its number of levels; `cond[name]` holds
    codes (B,), or weights (B, levels) of a mixture of levels.
    """

    def __init__(self, levels: dict[str, int], n_embed: int = 8):
        super().__init__()
        self.n = n_embed * len(levels)
        self.tables = nn.ParameterDict({name: torch.randn(n, n_embed) for name, n in levels.items()})

    def forward(self, h: Tensor, cond: Batch | None) -> Tensor:
        rows = [level(table, cond, name) for name, table in self.tables.items()]
        parts = [h] + [row.expand(*h.shape[:-1], -1) for row in rows]
        return torch.cat(parts, -1) if rows else h


def level(table: Tensor, cond: Batch | None, name: str) -> Tensor:
    """The row (B, n) of `table` that each cell's condition `name` picks, or the
    weighted mean of rows.

    Raises ValueError for a condition that the minibatch lacks or the table has not.
    """
    if cond is None or name not in cond:
        raise ValueError(
            f"the model is conditioned on {name!r}: load that column, "
            f"loader(adata, {name!r}), and pass the minibatch as cond"
        )
    y = cond[name]
    if y.is_floating_point() and y.dim() > 1 and y.shape[-1] == len(table):
        return y.to(table.dtype) @ table
    if y.dim() == 1 and y.dtype == torch.int64:
        with suppress(IndexError):  # no check that would make a GPU wait
            return nn.functional.embedding(y, table)
    raise ValueError(
        f"{name!r} takes int64 codes (B,) from 0 to {len(table) - 1}, or "
        f"weights (B, {len(table)}), and got {tuple(y.shape)} {y.dtype}; "
        f"store labels as astype('category')"
    )


class Encoder(nn.Module):
    """x (B, G), and the conditions if any -> (B, 2 Z) by an MLP on `transform(x)`."""

    def __init__(
        self,
        n_genes: int,
        n_latent: int,
        n_hidden: int = 128,
        transform=nn.Identity(),
        embed: ConditionEmbedding | None = None,
    ):
        super().__init__()
        self.transform, self.embed = transform, embed or ConditionEmbedding({})
        self.net = mlp(n_genes + self.embed.n, n_hidden, 2 * n_latent)

    def forward(self, x: Tensor, cond: Batch | None = None) -> Tensor:
        return self.net(self.embed(self.transform(x), cond))


class GaussianDecoder(nn.Module):
    """N(net(z, y), std^2) with one learned std for all genes."""

    def __init__(self, net: nn.Module, embed: ConditionEmbedding | None = None):
        super().__init__()
        self.net, self.embed = net, embed or ConditionEmbedding({})
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, cond: Batch | None = None) -> Distribution:
        return gaussian(self.net(self.embed(z, cond)), self.log_std.exp())


class CountDecoder(nn.Module):
    """Counts around library * softmax(net(z, y)): proportions from z and y, depth
    from the cell, the scatter from `counts` (NB, ZINB or Poisson)."""

    def __init__(self, net: nn.Module, counts: nn.Module, embed: ConditionEmbedding | None = None):
        super().__init__()
        self.net, self.counts = net, counts
        self.embed = embed or ConditionEmbedding({})

    def forward(self, z: Tensor, cond: Batch) -> Distribution:
        if cond is None or "log_library" not in cond:
            raise ValueError("a count decoder needs log_library (B, 1): pass the minibatch of data.loader as cond")
        rho = self.net(self.embed(z, cond)).softmax(-1)  # (..., B, G)
        mean = cond["log_library"].exp() * rho + 1e-30  # a share may round to 0
        return Independent(self.counts(mean, z, cond), 1)


class LearnedLibrary(nn.Module):
    """`decoder`, with the library no longer read off the cell but inferred: the last
    coordinate of z, in standard units, log_library = mean + std z_Z."""

    def __init__(self, decoder: nn.Module, mean: float, std: float):
        super().__init__()
        self.decoder, self.mean, self.std = decoder, mean, std

    def forward(self, z: Tensor, cond: Batch | None = None) -> Distribution:
        library = {"log_library": self.mean + self.std * z[..., -1:]}
        return self.decoder(z[..., :-1], (cond or {}) | library)


class NB(nn.Module):
    """Negative binomial around the mean, one theta per gene; with `by`, a condition's
    name and number of levels, one per gene and level. `theta` is where all start."""

    def __init__(self, n_genes: int, by: tuple[str, int] | None = None, *, theta: float = 1.0):
        super().__init__()
        self.by, shape = by and by[0], (*by[1:], n_genes) if by else (n_genes,)
        self.log_theta = nn.Parameter(torch.full(shape, theta).log())

    def forward(self, mean: Tensor, z: Tensor, cond: Batch) -> Distribution:
        log_theta = level(self.log_theta, cond, self.by) if self.by else self.log_theta
        return negative_binomial(mean, log_theta.exp(), validate_args=False)


class ZINB(NB):
    """NB with an extra probability of zero whose logits are linear in z."""

    def __init__(self, n_genes: int, n_latent: int, by: tuple[str, int] | None = None, *, theta: float = 1.0):
        super().__init__(n_genes, by, theta=theta)
        self.gate = nn.Linear(n_latent, n_genes)
        nn.init.constant_(self.gate.bias, -3.0)  # 5 %, nearly NB: Adam moves a logit by no more than lr a step

    def forward(self, mean: Tensor, z: Tensor, cond: Batch) -> Distribution:
        return ZeroInflated(super().forward(mean, z, cond), self.gate(z))


class Poisson(nn.Module):
    """Poisson around the mean: counting noise and nothing else."""

    def forward(self, mean: Tensor, z: Tensor, cond: Batch) -> Distribution:
        return torch.distributions.Poisson(mean, validate_args=False)


class Log1pRelative(nn.Module):
    """log(1 + x / the cell's mean count): of order one for a gene of average
    abundance, at any depth, single cell or bulk."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / x.mean(-1, keepdim=True)).log1p()


def count_vae(
    n_genes: int,
    n_latent: int = 10,
    n_hidden: int = 128,
    *,
    conditions: dict[str, int] | None = None,
    n_embed: int = 8,
    counts: nn.Module | None = None,
) -> VAE:
    """The count VAE of the book: log1p encoder, softmax decoder, one hidden layer
    each, negative binomial unless `counts` is given.

    `conditions` (name: number of levels) are embedded and given to both networks.
    """
    at_x, at_z = (ConditionEmbedding(conditions or {}, n_embed) for _ in range(2))
    encoder = Encoder(n_genes, n_latent, n_hidden, Log1pRelative(), at_x)
    net = mlp(n_latent + at_z.n, n_hidden, n_genes)
    return VAE(encoder, CountDecoder(net, counts or NB(n_genes), at_z), n_latent)
