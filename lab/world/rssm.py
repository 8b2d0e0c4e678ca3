"""The recurrent state-space model: a deterministic path that remembers, and a stochastic one that may differ."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from lab.dist import gaussian
from lab.errors import Refused
from lab.nets import mlp

State = tuple[Tensor, Tensor]


class RSSM(nn.Module):
    """Recurrent state-space model (Hafner et al. 2019): a state is h (B, H), deterministic, and z (B, Z), drawn.

    h = GRU(h, (z, action)); prior p(z | h); posterior q(z | h, obs); obs ~ N(decoder(h, z), std^2), with one std an
    observed feature, learned. `floor` is the least standard deviation of z.
    """

    def __init__(
        self,
        n_obs: int,
        n_action: int,
        *,
        n_deterministic: int = 32,
        n_latent: int = 8,
        n_hidden: int = 64,
        floor: float = 0.01,
    ):
        super().__init__()
        if min(n_obs, n_action, n_deterministic, n_latent, n_hidden) < 1 or not floor > 0:
            raise Refused("an RSSM has at least one of everything it counts, and a floor above 0: see its signature")
        self.cell = nn.GRUCell(n_latent + n_action, n_deterministic)
        self.prior_net = mlp(n_deterministic, n_hidden, 2 * n_latent)
        self.posterior_net = mlp(n_deterministic + n_obs, n_hidden, 2 * n_latent)
        self.decoder = mlp(n_deterministic + n_latent, n_hidden, n_obs)
        self.log_std = nn.Parameter(torch.zeros(n_obs))
        self.n_obs, self.n_action, self.n_latent, self.floor = n_obs, n_action, n_latent, floor
        self.n_state = n_deterministic + n_latent

    def start(self, n: int) -> State:
        """The state before anything is seen: zeros."""
        like = self.log_std
        return like.new_zeros(n, self.n_state - self.n_latent), like.new_zeros(n, self.n_latent)

    def step(self, state: State, action: Tensor, obs: Tensor | None = None) -> tuple[State, Distribution, Distribution]:
        """(state, prior, posterior) after action (B, A): with obs (B, N) z is drawn from the posterior, without it from
        the prior, which then stands for both."""
        h, z = state
        if action.shape != (len(h), self.n_action) or obs is not None and obs.shape != (len(h), self.n_obs):
            raise Refused(
                f"a step of {len(h)} states takes actions ({len(h)}, {self.n_action}) and observations ({len(h)}, "
                f"{self.n_obs}); got {tuple(action.shape)} and {None if obs is None else tuple(obs.shape)}"
            )
        h = self.cell(torch.cat([z, action], -1), h)
        prior = self._law(self.prior_net(h))
        posterior = prior if obs is None else self._law(self.posterior_net(torch.cat([h, obs], -1)))
        return (h, posterior.rsample()), prior, posterior

    def _law(self, params: Tensor) -> Distribution:
        mean, raw = params.chunk(2, -1)
        return gaussian(mean, softplus(raw) + self.floor)

    def features(self, state: State) -> Tensor:
        """The state as one tensor (..., H + Z)."""
        return torch.cat(state, -1)

    def likelihood(self, state: State) -> Distribution:
        """p(obs | state), of states (..., H) and (..., Z)."""
        mean = self.decoder(self.features(state))
        return gaussian(mean, self.log_std.exp().expand_as(mean))

    def filter(self, obs: Tensor, actions: Tensor) -> State:
        """The states h (B, T, H) and z (B, T, Z), drawn, along a sequence of observations."""
        state, states = self.start(len(obs)), []
        for x, action in zip(obs.unbind(1), actions.unbind(1), strict=True):
            state, _, _ = self.step(state, action, x)
            states.append(state)
        return tuple(torch.stack(part, 1) for part in zip(*states))

    def imagine(self, state: State, actions: Tensor) -> Distribution:
        """p(obs | an imagined path), over (B, T, N): z is drawn from the prior along actions (B, T, A), and nothing is
        observed. A draw of it is a draw of the future; for a band, repeat the state."""
        means = []
        for action in actions.unbind(1):
            state, _, _ = self.step(state, action)
            means.append(self.likelihood(state).mean)  # at once: of many paths only these are kept
        mean = torch.stack(means, 1)
        return gaussian(mean, self.log_std.exp().expand_as(mean))
