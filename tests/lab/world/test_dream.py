"""Returns against explicit sums and (I - gamma P)^-1 r; the scales of the critic; what an actor learns in a dream."""

import pytest
import torch

from lab import train, world
from lab.errors import Refused


def test_symexp_inverts_symlog():
    x = torch.tensor([-1e4, -3.0, -1e-3, 0.0, 0.2, 5.0, 2e5]).double()
    torch.testing.assert_close(world.symexp(world.symlog(x)), x, rtol=1e-10, atol=1e-12)
    small = torch.tensor([1e-4, -1e-4])
    torch.testing.assert_close(world.symlog(small), small, rtol=1e-3, atol=0)
    assert world.symlog(x).diff().min() > 0


def test_two_hot_weighs_two_neighbours_whose_mean_is_exact():
    bins = torch.tensor([-3.0, -1.0, 0.0, 0.5, 4.0]).double()
    x = torch.cat([7 * torch.rand(1000).double() - 3, bins])
    weights = world.two_hot(x, bins)
    torch.testing.assert_close(weights @ bins, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(x))
    assert ((weights > 0).sum(-1) <= 2).all() and (weights >= 0).all()
    at = weights[:1000].argsort(-1)[:, -2:]
    assert (at.diff(dim=-1).abs() == 1).all()
    with pytest.raises(Refused, match="widen"):
        world.two_hot(torch.tensor([5.0]), bins)


@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
def test_the_recursion_is_the_weighted_sum_of_n_step_returns(lam):
    r, v, g = torch.randn(3, 8).double(), torch.randn(3, 8).double(), 0.9
    n_step = lambda t, n: sum(g**j * r[:, t + j] for j in range(n)) + g**n * v[:, t + n - 1]
    mine = world.lambda_returns(r, v, discount=g, lam=lam)
    for t in range(8):
        left = 8 - t
        explicit = (1 - lam) * sum(lam ** (n - 1) * n_step(t, n) for n in range(1, left)) + lam ** (left - 1) * n_step(
            t, left
        )
        torch.testing.assert_close(mine[:, t], explicit, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_a_value_that_learns_its_returns_is_the_markov_chains(lam):
    P, r, g = torch.rand(5, 5).double(), torch.randn(5).double(), 0.9
    P = P / P.sum(1, keepdim=True)
    exact = torch.linalg.solve(torch.eye(5).double() - g * P, r)
    value, rate = torch.zeros(5).double(), 0.02
    states = torch.randint(5, (1000,))
    for step in range(500):
        path = [states]
        for _ in range(5):
            path.append(P[path[-1]].multinomial(1)[:, 0])
        path = torch.stack(path, 1)
        returns = world.lambda_returns(r[path[:, :-1]], value[path[:, 1:]], discount=g, lam=lam)[:, 0]
        mean = torch.zeros(5).double().index_add_(0, states, returns) / torch.bincount(states, minlength=5)
        value = value + (1.0 if step < 60 else rate) * (mean - value)
    assert (value - exact).abs().max() < 0.03


class Line:
    """A model of one number that actions move, known exactly."""

    n_state = 1

    def step(self, state, action, obs=None):
        return (0 * state[0], state[1] + action), None, None

    def features(self, state):
        return state[1]

    def likelihood(self, state):
        return torch.distributions.Normal(state[1], 1.0)


def test_an_actor_learns_to_go_home_and_a_critic_what_it_costs():
    agent, line = world.ActorCritic(1, 1), Line()
    starts = torch.linspace(-3, 3, 64)[:, None]
    reward = lambda obs, action: -(obs[:, 0] ** 2)
    loss = lambda b: world.dream_loss(agent, line, b, reward=reward, horizon=6, discount=0.9)
    for _ in train.steps(agent, loss, [{"h": starts, "z": starts}], n=400, lr=train.cosine(1e-2, 400)):
        train.ema_update(agent.target, agent.critic, 0.9)
    x = torch.tensor([[-2.0], [-0.5], [0.5], [1.5]])
    with torch.no_grad():
        assert (agent.act(x) - torch.tensor([[1.0], [0.5], [-0.5], [-1.0]])).abs().max() < 0.2
        assert (agent.value(x) - torch.tensor([-1.0, 0.0, 0.0, -0.25])).abs().max() < 0.3


def test_each_part_of_the_loss_reaches_its_own_network_and_the_target_none():
    agent, line = world.ActorCritic(1, 1), Line()
    b = {"h": torch.randn(8, 1), "z": torch.randn(8, 1)}
    report = world.dream_loss(agent, line, b, reward=lambda obs, action: -(obs[:, 0] ** 2))
    report["critic"].backward(retain_graph=True)
    assert all(p.grad is None for p in agent.actor.parameters())
    agent.zero_grad()
    (report["loss"] - report["critic"]).backward()
    assert not agent.critic[-1].bias.grad.any() and agent.actor[-1].bias.grad.any()
    assert all(p.grad is None for p in agent.target.parameters())


def test_a_fresh_agent_takes_the_middle_action_and_expects_nothing_and_never_leaves_its_bounds():
    agent = world.ActorCritic(3, 2, low=0.0, high=1.0)
    x = 100 * torch.randn(50, 3)
    assert (agent.act(x) == 0.5).all() and agent.value(x).abs().max() < 1e-3
    torch.nn.init.normal_(agent.actor[-1].weight)
    assert agent.act(x).min() >= 0 and agent.act(x).max() <= 1 and agent.act(x).std() > 0.1


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(Refused, match="value of the state after"):
        world.lambda_returns(torch.zeros(2, 3), torch.zeros(2, 4), discount=0.9, lam=0.9)
    with pytest.raises(Refused, match="low < high"):
        world.ActorCritic(1, 1, low=1.0, high=0.0)
