"""Variational autoencoders: one ELBO, over any (prior, posterior, likelihood).

`cond` is whatever the decoder needs besides z; for counts it is `log_library` (B, 1).
"""
import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from lab.dist import negative_binomial
from lab.nets import mlp


class VAE(nn.Module):
    """z ~ N(0, I), x ~ likelihood(z), and an encoder that guesses the posterior
    (Kingma & Welling 2014).

    `encoder(x, cond) -> (B, 2 Z)`, mean and log standard deviation;
    `decoder(z, cond) -> Distribution` over x (B, G).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, n_latent: int):
        super().__init__()
        self.encoder, self.decoder, self.n_latent = encoder, decoder, n_latent
        self.register_buffer("zero", torch.zeros(n_latent))

    def prior(self) -> Distribution:
        """p(z) = N(0, I) over (Z,)."""
        return _gaussian(self.zero, torch.ones_like(self.zero))

    def posterior(self, x: Tensor, cond: Tensor | None = None) -> Distribution:
        """q(z | x), a diagonal Gaussian over (B, Z)."""
        mean, log_std = self.encoder(x, cond).chunk(2, -1)
        return _gaussian(mean, log_std.exp())

    def likelihood(self, z: Tensor, cond: Tensor | None = None) -> Distribution:
        """p(x | z) over (..., B, G) for z (..., B, Z)."""
        return self.decoder(z, cond)


def elbo(model: VAE, x: Tensor, cond: Tensor | None = None) -> Tensor:
    """Evidence lower bound per cell (B,), in nats, from one posterior sample."""
    q = model.posterior(x, cond)
    recon = model.likelihood(q.rsample(), cond).log_prob(x)              # (B,)
    return recon - kl_divergence(q, model.prior())


def loss(model: VAE, x: Tensor, cond: Tensor | None = None,
         beta: float = 1.0) -> dict[str, Tensor]:
    """-ELBO with the KL weighted by beta, and its two parts: sums over genes,
    means over cells, in nats."""
    q = model.posterior(x, cond)
    recon = model.likelihood(q.rsample(), cond).log_prob(x)              # (B,)
    kl = kl_divergence(q, model.prior())                                 # (B,)
    return {"loss": (beta * kl - recon).mean(),
            "recon": recon.mean(), "kl": kl.mean()}


def iwae_bound(model: VAE, x: Tensor, cond: Tensor | None = None,
               k: int = 8) -> Tensor:
    """log of the mean of k importance weights per cell (B,): at least the ELBO, at
    most log p(x), both in expectation (Burda et al. 2016, eq. 8)."""
    q = model.posterior(x, cond)
    z = q.rsample((k,))                                                  # (K, B, Z)
    log_w = (model.likelihood(z, cond).log_prob(x)
             + model.prior().log_prob(z) - q.log_prob(z))                # (K, B)
    return log_w.logsumexp(0) - math.log(k)                              # (B,)


@torch.no_grad()
def active_units(model: VAE, x: Tensor, cond: Tensor | None = None,
                 threshold: float = 0.01) -> int:
    """How many latent coordinates move with the data: Var_x(E[z_i | x]) > threshold
    (Burda et al. 2016, section 5.1)."""
    return int((model.posterior(x, cond).mean.var(0) > threshold).sum())


def _gaussian(mean: Tensor, std: Tensor) -> Distribution:
    return Independent(Normal(mean, std, validate_args=False), 1)


class Encoder(nn.Module):
    """x (B, G) -> (B, 2 Z) by an MLP on `transform(x)`; blind to the condition."""

    def __init__(self, n_genes: int, n_latent: int, n_hidden: int = 128,
                 transform=nn.Identity()):
        super().__init__()
        self.transform, self.net = transform, mlp(n_genes, n_hidden, 2 * n_latent)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(self.transform(x))


class GaussianDecoder(nn.Module):
    """N(net(z), std^2) with one learned std for all genes."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.log_std = net, nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, cond: Tensor | None = None) -> Distribution:
        return _gaussian(self.net(z), self.log_std.exp())


class CountDecoder(nn.Module):
    """NB(library * softmax(net(z)), theta): proportions from z, depth from the cell,
    one theta per gene (scVI, Lopez et al. 2018)."""

    def __init__(self, net: nn.Module, n_genes: int):
        super().__init__()
        self.net, self.log_theta = net, nn.Parameter(torch.zeros(n_genes))

    def forward(self, z: Tensor, log_library: Tensor) -> Distribution:
        mean = log_library.exp() * self.net(z).softmax(-1)               # (..., B, G)
        counts = negative_binomial(mean, self.log_theta.exp(), validate_args=False)
        return Independent(counts, 1)


class Log1pRelative(nn.Module):
    """log(1 + x / the cell's mean count): of order one for a gene of average
    abundance, at any depth, single cell or bulk."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / x.mean(-1, keepdim=True)).log1p()


def count_vae(n_genes: int, n_latent: int = 10, n_hidden: int = 128) -> VAE:
    """The count VAE of the book: log1p encoder, softmax negative-binomial decoder,
    one hidden layer each; `cond` is log_library (B, 1)."""
    return VAE(Encoder(n_genes, n_latent, n_hidden, Log1pRelative()),
               CountDecoder(mlp(n_latent, n_hidden, n_genes), n_genes), n_latent)
