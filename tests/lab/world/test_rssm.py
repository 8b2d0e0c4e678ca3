"""The RSSM and its bounds: against the exact likelihood of a linear system, and the identities of their parts."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from lab import train, world
from lab.dist import gaussian
from lab.errors import Refused


class Known:
    """z_t = a z_{t-1} + action + N(0, q), obs = z + N(0, r), from z = 0; the posterior has the mean (1 - gain) prior +
    gain obs and a given std. The step protocol without a network."""

    def __init__(self, gain, std, a=0.9, q=0.5, r=0.8):
        self.gain, self.std, self.a, self.q, self.r = gain, std, a, q, r

    def start(self, n):
        return (torch.zeros(n, 1).double(),)

    def step(self, state, action, obs=None):
        mean = self.a * state[0] + action
        prior = gaussian(mean, torch.full_like(mean, self.q**0.5))
        if obs is None:
            return (prior.rsample(),), prior, prior
        posterior = gaussian(mean + self.gain * (obs - mean), torch.full_like(mean, self.std))
        return (posterior.rsample(),), prior, posterior

    def likelihood(self, state):
        return gaussian(state[0], torch.full_like(state[0], self.r**0.5))


def tensors(*numbers):
    return [torch.tensor([[x]], dtype=torch.float64) for x in numbers]


@pytest.fixture
def known():
    """The greedy posterior p(z_t | z_{t-1}, obs_t), its system, and 2,000 sequences with their exact likelihood."""
    A, B, H, Q, R, P = tensors(0.9, 1.0, 1.0, 0.5, 0.8, 0.0)
    system = world.System(A, B, H, Q, R, torch.zeros(1).double(), P)
    actions = torch.randn(2000, 15, 1).double()
    obs = _from_zero(actions)
    exact = world.kalman(system, obs, actions).log_prob.sum(1)
    gain = 0.5 / (0.5 + 0.8)
    return Known(gain, (0.5 * (1 - gain)) ** 0.5), obs, actions, exact


def _from_zero(actions):
    z, seen = torch.zeros(len(actions), 1).double(), []
    for action in actions.unbind(1):
        z = 0.9 * z + action + 0.5**0.5 * torch.randn_like(z)
        seen.append(z + 0.8**0.5 * torch.randn_like(z))
    return torch.stack(seen, 1)


def test_greedy_is_below_the_best_of_its_form_is_below_fivo_is_the_exact_likelihood(known):
    greedy, obs, actions, exact = known
    bounds = {
        (gain, std): world.sequence_elbo(Known(gain, std), obs, actions).mean()
        for gain in (0.3, 0.45, 0.55, 0.65)
        for std in (0.45, 0.5, 0.55, 0.6, 0.7)
    }
    mine = world.sequence_elbo(greedy, obs, actions).mean()
    noise = 3 * exact.std() / len(exact) ** 0.5
    assert mine + 0.05 < max(bounds.values()) < exact.mean() - 0.1
    assert all(bound < exact.mean() + noise for bound in bounds.values())
    tight = world.fivo(greedy, obs[:300], actions[:300], k=1000)
    assert abs((tight - exact[:300]).mean()) < 0.01


def test_fivo_of_one_particle_is_the_elbo_and_more_are_never_worse(known):
    greedy, obs, actions, exact = known
    bounds = [world.fivo(greedy, obs, actions, k=k).mean() for k in (1, 4, 32)]
    elbo = world.sequence_elbo(greedy, obs, actions).mean()
    assert abs(bounds[0] - elbo) < 0.15
    assert bounds[0] < bounds[1] < bounds[2] < exact.mean() + 0.02


def laws():
    mean, log_std, other = (torch.randn(6, 4, requires_grad=True) for _ in range(3))
    return mean, other, gaussian(mean, log_std.exp()), gaussian(other, torch.ones(6, 4))


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.8, 1.0])
def test_balancing_leaves_the_value_and_splits_the_gradient(balance):
    mean, other, posterior, prior = laws()
    plain, mine = kl_divergence(posterior, prior), world.kl_balanced(posterior, prior, balance)
    torch.testing.assert_close(mine, plain)
    to_posterior, to_prior = torch.autograd.grad(plain.sum(), (mean, other), retain_graph=True)
    split = torch.autograd.grad(mine.sum(), (mean, other))
    torch.testing.assert_close(split[0], (1 - balance) * to_posterior)
    torch.testing.assert_close(split[1], balance * to_prior)


def test_below_the_free_nats_the_kl_has_no_gradient_and_counts_as_them():
    model, obs, actions = world.RSSM(2, 1), torch.randn(4, 5, 2), torch.randn(4, 5, 1)
    reports = []
    for free in (0.0, 1e3):
        torch.manual_seed(1)
        reports.append(world.loss(model, {"obs": obs, "actions": actions}, free_nats=free))
    plain, free = reports
    assert free["kl"] == 1e3 and torch.equal(plain["recon"], free["recon"]) and 0 < plain["kl"] < 1e3
    free["kl"].requires_grad and free["kl"].backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    torch.testing.assert_close(plain["loss"], plain["kl"] - plain["recon"])


def test_the_elbo_is_the_sum_by_hand_and_the_loss_its_negative_a_step():
    model, obs, actions = world.RSSM(3, 2), torch.randn(4, 6, 3), torch.randn(4, 6, 2)
    torch.manual_seed(1)
    mine = world.sequence_elbo(model, obs, actions)
    torch.manual_seed(1)
    state, total = model.start(4), 0
    for t in range(6):
        state, prior, posterior = model.step(state, actions[:, t], obs[:, t])
        mean = model.decoder(torch.cat(state, -1))
        total += Independent(Normal(mean, model.log_std.exp()), 1).log_prob(obs[:, t])
        total -= kl_divergence(posterior, prior)
    torch.testing.assert_close(mine, total)
    torch.manual_seed(1)
    torch.testing.assert_close(world.loss(model, {"obs": obs, "actions": actions})["loss"], -total.mean() / 6)


def test_the_action_at_t_leads_to_the_observation_at_t_and_the_prior_is_blind():
    model, obs, actions = world.RSSM(3, 2), torch.randn(1, 6, 3), torch.randn(1, 6, 2, requires_grad=True)
    torch.manual_seed(1)
    dream = model.imagine(model.start(1), actions)
    (grad,) = torch.autograd.grad(dream.mean[0, 3].sum(), actions)
    assert grad[0, :4].abs().sum(1).min() > 0 and not grad[0, 4:].any()
    _, prior, posterior = model.step(model.start(1), actions[:, 0], obs[:, 0])
    _, blind, same = model.step(model.start(1), actions[:, 0])
    torch.testing.assert_close(prior.mean, blind.mean)
    assert same is blind and not torch.equal(posterior.mean, prior.mean)


def test_a_trained_model_comes_near_the_exact_likelihood_and_not_beyond(known):
    _, obs, actions, exact = known
    obs, actions = obs.float(), actions.float()
    model = world.RSSM(1, 1, n_deterministic=16, n_latent=2, n_hidden=32)
    batches = [{"obs": x, "actions": a} for x, a in zip(obs[:1600].split(32), actions[:1600].split(32))]
    train.fit(model, lambda b: world.loss(model, b), batches, n=500, lr=train.cosine(1e-2, 500), clip=10.0)
    gap = exact[1600:] - world.sequence_elbo(model, obs[1600:], actions[1600:]).detach()
    assert -3 * gap.std() / 20 < gap.mean() < 0.15 * 15


def test_filtered_states_are_those_of_the_steps():
    model, obs, actions = world.RSSM(2, 1), torch.randn(3, 4, 2), torch.randn(3, 4, 1)
    torch.manual_seed(1)
    h, z = model.filter(obs, actions)
    torch.manual_seed(1)
    state = model.start(3)
    for t in range(4):
        state = model.step(state, actions[:, t], obs[:, t])[0]
        assert torch.equal(state[0], h[:, t]) and torch.equal(state[1], z[:, t])
    assert model.likelihood((h, z)).batch_shape == (3, 4) and model.features((h, z)).shape[-1] == model.n_state


def test_bad_input_is_refused_in_a_sentence():
    model, obs, actions = world.RSSM(2, 1), torch.randn(3, 4, 2), torch.randn(3, 4, 1)
    with pytest.raises(Refused, match=r"actions \(3, 1\)"):
        model.step(model.start(3), torch.randn(3, 2))
    with pytest.raises(Refused, match="one action that leads"):
        world.sequence_elbo(model, obs, actions[:, 1:])
    with pytest.raises(Refused, match="one action that leads"):
        world.fivo(model, obs[0], actions[0], k=2)
    with pytest.raises(Refused, match="free_nats"):
        world.sequence_elbo(model, obs, actions, free_nats=-1.0)
    with pytest.raises(Refused, match="balance"):
        world.sequence_elbo(model, obs, actions, balance=math.nan)
    with pytest.raises(Refused, match="at least one"):
        world.RSSM(0, 1)
