"""Bounds on log p(obs | actions) of a model that steps: the sequence ELBO, what training makes of it, and FIVO."""

from math import log

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from lab.dist import gaussian
from lab.errors import Refused
from lab.nets import Minibatch


def kl_balanced(posterior: Distribution, prior: Distribution, balance: float) -> Tensor:
    """KL(posterior | prior) (B,), of which the prior gets the share `balance` of its gradient and the posterior the
    rest (Hafner et al. 2021); the value is the same for every balance."""
    if not 0 <= balance <= 1:
        raise Refused(f"balance is the prior's share of the KL's gradient, in [0, 1]; got {balance}")
    fixed = [gaussian(law.mean.detach(), law.stddev.detach()) for law in (posterior, prior)]
    return balance * kl_divergence(fixed[0], prior) + (1 - balance) * kl_divergence(posterior, fixed[1])


def _terms(model, obs: Tensor, actions: Tensor, free_nats: float, balance: float | None) -> tuple[Tensor, Tensor]:
    """log p(obs_t | state_t) and KL_t, both (B, T), along one drawn path of the posterior."""
    _check(obs, actions)
    if not free_nats >= 0:
        raise Refused(f"free_nats is the KL a step that costs the same as none, from 0 up; got {free_nats}")
    state, recon, kl = model.start(len(obs)), [], []
    for x, action in zip(obs.unbind(1), actions.unbind(1)):
        state, prior, posterior = model.step(state, action, x)
        recon.append(model.likelihood(state).log_prob(x))
        own = kl_divergence(posterior, prior) if balance is None else kl_balanced(posterior, prior, balance)
        kl.append(own.clamp(min=free_nats))
    return torch.stack(recon, 1), torch.stack(kl, 1)


def sequence_elbo(model, obs: Tensor, actions: Tensor, free_nats: float = 0.0, balance: float | None = None) -> Tensor:
    """The evidence lower bound of whole sequences (B,), by one draw of the path: sum over t of
    log p(obs_t | state_t) - KL(q(z_t | h_t, obs_t) | p(z_t | h_t)).

    With `free_nats` above 0 no step's KL counts as less, and no gradient flows there (Kingma et al. 2016): then it
    is below the bound. `balance` is `kl_balanced`'s and leaves the value alone; None is the plain KL, with its whole
    gradient to either side.
    """
    recon, kl = _terms(model, obs, actions, free_nats, balance)
    return (recon - kl).sum(1)


def loss(model, b: Minibatch, *, free_nats: float = 0.0, balance: float | None = None) -> dict[str, Tensor]:
    """-sequence ELBO a time step, the mean over the sequences b["obs"] (B, T, N) under b["actions"] (B, T, A)."""
    recon, kl = _terms(model, b["obs"], b["actions"], free_nats, balance)
    return {"loss": (kl - recon).mean(), "recon": recon.mean(), "kl": kl.mean()}


@torch.no_grad()
def fivo(model, obs: Tensor, actions: Tensor, *, k: int) -> Tensor:
    """log p(obs | actions) (B,) by k particles that the posterior proposes and that are drawn anew after each step in
    proportion to their weights (Maddison et al. 2017): on average from below, and closer with k. k = 1 is a draw of
    the ELBO without its KL's closed form."""
    _check(obs, actions)
    n = len(obs)
    state, total = model.start(n * k), obs.new_zeros(n)
    for x, action in zip(obs.unbind(1), actions.unbind(1)):
        x, action = x.repeat_interleave(k, 0), action.repeat_interleave(k, 0)
        state, prior, posterior = model.step(state, action, x)
        z = state[-1]
        log_w = model.likelihood(state).log_prob(x) + prior.log_prob(z) - posterior.log_prob(z)
        log_w = log_w.view(n, k)
        total = total + log_w.logsumexp(1) - log(k)
        kept = log_w.softmax(1).multinomial(k, replacement=True) + k * torch.arange(n, device=x.device)[:, None]
        state = tuple(part[kept.flatten()] for part in state)
    return total


def _check(obs: Tensor, actions: Tensor) -> None:
    if obs.dim() != 3 or actions.dim() != 3 or obs.shape[:2] != actions.shape[:2] or not obs.shape[1]:
        raise Refused(
            "a sequence is obs (B, T, N) with actions (B, T, A), one action that leads to each observation; got "
            f"{tuple(obs.shape)} and {tuple(actions.shape)}"
        )
