"""A policy from imagination (Hafner et al. 2020): actor and critic that never see the world, only a model of it."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from lab.dist import gaussian
from lab.errors import Refused
from lab.nets import Minibatch, mlp


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): the identity near 0, a logarithm far out (Hafner et al. 2023)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights (..., K) on the two of `bins` (K,), rising, between which x (...) lies, such that their mean is x."""
    if not ((x >= bins[0]) & (x <= bins[-1])).all():
        raise Refused(f"two-hot weights reach from {bins[0]:g} to {bins[-1]:g}, and a value lies outside: widen bins")
    above = torch.searchsorted(bins, x.contiguous()).clamp(1, len(bins) - 1)
    share = (x - bins[above - 1]) / (bins[above] - bins[above - 1])
    weights = x.new_zeros(*x.shape, len(bins))
    weights.scatter_(-1, above[..., None], share[..., None])
    return weights.scatter_(-1, above[..., None] - 1, 1 - share[..., None])


def lambda_returns(rewards: Tensor, values: Tensor, *, discount: float, lam: float) -> Tensor:
    """G_t = r_t + discount ((1 - lam) v_t + lam G_{t+1}) (B, T), from the last value: rewards (B, T) of each action and
    values (B, T) of the state that it led to. lam = 0 looks one step ahead, 1 to the horizon."""
    if rewards.shape != values.shape or not (0 <= discount <= 1 and 0 <= lam <= 1):
        raise Refused(
            f"each reward has the value of the state after it, discount and lam in [0, 1]; got {tuple(rewards.shape)}, "
            f"{tuple(values.shape)}, discount={discount}, lam={lam}"
        )
    later, returns = values[:, -1], []
    for reward, value in zip(rewards.flip(1).unbind(1), values.flip(1).unbind(1)):
        later = reward + discount * ((1 - lam) * value + lam * later)
        returns.append(later)
    return torch.stack(returns[::-1], 1)


class ActorCritic(nn.Module):
    """An actor, features (..., D) -> action (..., A) in (low, high), and a critic whose value is the mean of `n_bins`
    of symlog. `target` is the critic's slow copy, for `train.ema_update`, and is trained by nothing else."""

    def __init__(
        self, n_state: int, n_action: int, *, low: float = -1.0, high: float = 1.0, n_hidden: int = 64, n_bins: int = 41
    ):
        super().__init__()
        if not low < high:
            raise Refused(f"actions lie between low and high, low < high; got {low}, {high}")
        self.actor, self.critic = mlp(n_state, n_hidden, 2 * n_action), mlp(n_state, n_hidden, n_bins)
        for net in (self.actor, self.critic):  # begin with the middle action, and with all values 0
            nn.init.zeros_(net[-1].weight)
            nn.init.zeros_(net[-1].bias)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("bins", torch.linspace(-9, 9, n_bins))
        self.low, self.high = low, high

    def policy(self, features: Tensor) -> Distribution:
        """The law of an action before `squash`."""
        mean, raw = self.actor(features).chunk(2, -1)
        return gaussian(mean, softplus(raw - 2) + 0.01)  # begins at .14, and stays above a floor

    def squash(self, u: Tensor) -> Tensor:
        """Into (low, high)."""
        return self.low + (self.high - self.low) * (u.tanh() + 1) / 2

    def act(self, features: Tensor) -> Tensor:
        """The action (..., A) without exploration."""
        return self.squash(self.policy(features).mean)

    def value(self, features: Tensor, critic: nn.Module | None = None) -> Tensor:
        """The discounted reward (...) to come."""
        return symexp((self.critic if critic is None else critic)(features).softmax(-1) @ self.bins)


def dream_loss(
    agent: ActorCritic,
    world,
    b: Minibatch,
    *,
    reward: Callable[[Tensor, Tensor], Tensor],
    horizon: int = 15,
    discount: float = 0.99,
    lam: float = 0.95,
    entropy: float = 0.0,
) -> dict[str, Tensor]:
    """The actor climbs the lambda-returns of paths imagined from the states b["h"], b["z"], by gradient through
    `world`; the critic learns them. `reward(obs, action)` (B,) is of the mean observation that follows the action;
    `entropy` weighs the actor's. Gradients reach actor and critic, each from its own part of the loss."""
    state, actor_entropy = (b["h"], b["z"]), 0.0
    features, rewards = [world.features(state)], []
    for _ in range(horizon):
        law = agent.policy(features[-1])
        action, actor_entropy = agent.squash(law.rsample()), actor_entropy + law.entropy().mean() / horizon
        state, _, _ = world.step(state, action)
        rewards.append(reward(world.likelihood(state).mean, action))
        features.append(world.features(state))
    features = torch.stack(features, 1)  # (B, T + 1, D)
    values = agent.value(features[:, 1:], agent.target)
    returns = lambda_returns(torch.stack(rewards, 1), values, discount=discount, lam=lam)
    aims = two_hot(symlog(returns.detach()), agent.bins)
    critic = -(aims * agent.critic(features[:, :-1].detach()).log_softmax(-1)).sum(-1).mean()
    actor = -returns.mean() - entropy * actor_entropy
    return {"loss": actor + critic, "return": returns[:, 0].mean(), "critic": critic, "entropy": actor_entropy}
