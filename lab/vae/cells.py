"""A VAE on cells: its encoder and decoders, and put together, scVI (Lopez et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lab.dist import gaussian
from lab.nets import NB, ConditionEmbedding, CountDecoder, Log1pRelative, Minibatch, mlp

from .bounds import VAE


class Encoder(nn.Module):
    """x (B, G), and the conditions if any -> (B, 2 Z) by an MLP on `transform(x)`."""

    def __init__(
        self,
        n_genes: int,
        n_latent: int,
        n_hidden: int = 128,
        *,
        transform=nn.Identity(),
        embed: ConditionEmbedding | None = None,
    ):
        super().__init__()
        self.n_genes, self.transform = n_genes, transform
        self.embed = embed or ConditionEmbedding({})
        self.levels = self.embed.levels
        self.net = mlp(n_genes + self.embed.n, n_hidden, 2 * n_latent)

    def forward(self, x: Tensor, cond: Minibatch | None = None) -> Tensor:
        return self.net(self.embed(self.transform(x), cond))


class GaussianDecoder(nn.Module):
    """N(net(z, y), std^2) with one learned std for all genes."""

    def __init__(self, net: nn.Module, embed: ConditionEmbedding | None = None):
        super().__init__()
        self.net, self.embed = net, embed or ConditionEmbedding({})
        self.levels = self.embed.levels
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, cond: Minibatch | None = None) -> Distribution:
        return gaussian(self.net(self.embed(z, cond)), self.log_std.exp())


class LearnedLibrary(nn.Module):
    """`decoder`, with the library no longer read off the cell but inferred: the last
    coordinate of z, in standard units, log_library = mean + std z_Z."""

    def __init__(self, decoder: nn.Module, mean: float, std: float):
        super().__init__()
        self.decoder, self.mean, self.std = decoder, mean, std
        self.levels = getattr(decoder, "levels", {})

    def forward(self, z: Tensor, cond: Minibatch | None = None) -> Distribution:
        library = {"log_library": self.mean + self.std * z[..., -1:]}
        return self.decoder(z[..., :-1], (cond or {}) | library)


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
    at_x, at_z = (ConditionEmbedding(conditions or {}, n_embed=n_embed) for _ in range(2))
    encoder = Encoder(n_genes, n_latent, n_hidden, transform=Log1pRelative(), embed=at_x)
    net = mlp(n_latent + at_z.n, n_hidden, n_genes)
    return VAE(encoder, CountDecoder(net, counts or NB(n_genes), at_z), n_latent)
