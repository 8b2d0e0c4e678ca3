"""The VAE, and its bounds on log p(x): the ELBO, and the tighter one of K samples."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from lab.dist import gaussian
from lab.nets import Minibatch


class VAE(nn.Module):
    """z ~ N(0, I), x ~ likelihood(z), and an encoder that guesses the posterior
    (Kingma & Welling 2014).

    `encoder(x, cond) -> (B, 2 Z)`, mean and log standard deviation;
    `decoder(z, cond) -> Distribution` over x (B, G); `cond` is the minibatch.
    `n_genes` and `levels` (condition: number of levels) are what its networks say they
    were built for.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, n_latent: int):
        super().__init__()
        self.encoder, self.decoder, self.n_latent = encoder, decoder, n_latent
        self.n_genes = getattr(encoder, "n_genes", None)
        self.levels = getattr(encoder, "levels", {}) | getattr(decoder, "levels", {})
        self.register_buffer("zero", torch.zeros(n_latent))

    def prior(self, cond: Minibatch | None = None) -> Distribution:
        """p(z) = N(0, I) over (Z,)."""
        return gaussian(self.zero, torch.ones_like(self.zero))

    def posterior(self, x: Tensor, cond: Minibatch | None = None) -> Distribution:
        """q(z | x), a diagonal Gaussian over (B, Z)."""
        out = self.encoder(x, cond).to(self.zero.dtype)  # bfloat16 would round nats
        mean, log_std = out.chunk(2, -1)
        return gaussian(mean, log_std.clamp(-40, 40).exp())  # squares of it are float32

    def likelihood(self, z: Tensor, cond: Minibatch | None = None) -> Distribution:
        """p(x | z) over (..., B, G) for z (..., B, Z)."""
        return self.decoder(z, cond)


def terms(model: VAE, x: Tensor, cond: Minibatch | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What the ELBO is made of, from one posterior sample z (B, Z): log p(x | z) and
    KL(q(z | x), p(z)), each (B,) and in nats; and z."""
    q = model.posterior(x, cond)
    z = q.rsample()  # (B, Z)
    recon = model.likelihood(z, cond).log_prob(x)  # (B,)
    return recon, kl_divergence(q, model.prior(cond)), z


def elbo(model: VAE, x: Tensor, cond: Minibatch | None = None) -> Tensor:
    """Evidence lower bound per cell (B,), in nats, from one posterior sample."""
    recon, kl, _ = terms(model, x, cond)
    return recon - kl


def loss(model: VAE, b: Minibatch, *, beta: float = 1.0) -> dict[str, Tensor]:
    """-ELBO with the KL weighted by beta, and its two parts: sums over genes,
    means over cells, in nats."""
    recon, kl, _ = terms(model, b["x"], b)
    return {"loss": (beta * kl - recon).mean(), "recon": recon.mean(), "kl": kl.mean()}


def log_weights(
    model: VAE, x: Tensor, cond: Minibatch | None = None, *, k: int = 8, doubly: bool = False
) -> tuple[Tensor, Tensor]:
    """log w = log p(x, z) - log q(z | x) (K, B) of k posterior samples, and the
    samples z (K, B, Z). The mean of w over q is p(x), whatever q is.

    `doubly`: log q is a constant in the encoder's weights, which then act through z
    alone.
    """
    if k < 1:
        raise ValueError(f"k={k}: a bound needs at least one sample of z")
    q = model.posterior(x, cond)
    z = q.rsample((k,))  # (K, B, Z)
    density = gaussian(q.mean.detach(), q.stddev.detach()) if doubly else q
    log_joint = model.likelihood(z, cond).log_prob(x) + model.prior(cond).log_prob(z)
    return log_joint - density.log_prob(z), z  # (K, B)


def iwae_bound(model: VAE, x: Tensor, cond: Minibatch | None = None, *, k: int = 8) -> Tensor:
    """log of the mean of k importance weights per cell (B,): at least the ELBO, at
    most log p(x), both in expectation (Burda et al. 2016, eq. 8)."""
    log_w, _ = log_weights(model, x, cond, k=k)  # (K, B)
    return log_w.logsumexp(0) - math.log(k)  # (B,)


def iwae_loss(model: VAE, b: Minibatch, *, k: int = 8, doubly: bool = False) -> dict[str, Tensor]:
    """Minus the bound of k samples, and `ess`, the effective number of samples,
    1 / sum of the squared normalised weights, from 1 to k: means over cells.

    `doubly`: the encoder's gradient is the doubly reparameterised one, whose signal
    does not drown as k grows (Tucker et al. 2019, eq. 8); its expectation, the
    decoder's gradient and the value stay the same.
    """
    log_w, z = log_weights(model, b["x"], b, k=k, doubly=doubly)
    # Weights below e^-40 of the largest do not show in the sum, but their gradients are
    # subnormal numbers, on which a CPU is slow: they get none.
    log_w = log_w.clamp(min=log_w.detach().amax(0) - 40)
    bound = (log_w.logsumexp(0) - math.log(k)).mean()
    weight = log_w.detach().softmax(0)  # (K, B)
    if doubly and z.requires_grad:  # the bound brings one factor of the weight
        z.register_hook(lambda grad: weight[..., None] * grad)
    return {"loss": -bound, "ess": (1 / weight.square().sum(0)).mean()}


@torch.no_grad()
def active_units(model: VAE, x: Tensor, cond: Minibatch | None = None, *, threshold: float = 0.01) -> int:
    """How many latent coordinates move with the data: Var_x(E[z_i | x]) > threshold
    (Burda et al. 2016)."""
    mean = model.posterior(x, cond).mean  # (B, Z)
    if len(mean) < 2 or not mean.isfinite().all():
        raise ValueError("active units need two cells or more, and finite posterior means: did training diverge?")
    return int((mean.var(0) > threshold).sum())
