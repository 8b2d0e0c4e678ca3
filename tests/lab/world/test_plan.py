"""Plans against the regulator's exact cost."""

import pytest
import torch

from lab import world
from lab.errors import Refused

Q, R = torch.eye(2).double(), torch.eye(1).double()


def quadratic(system, starts, P):
    """Cost of plans (..., T, 1) from starts, with z' P z at the end: the regulator's own, if P is."""

    def cost(actions):
        z, total = starts.expand(*actions.shape[:-2], 2), 0.0
        for action in actions.unbind(-2):
            total = total + (z @ Q * z).sum(-1) + (action @ R * action).sum(-1)
            z = z @ system.A.T + action @ system.B.T
        return total + (z @ P * z).sum(-1)

    return cost


@pytest.fixture
def problem(system):
    K, P = world.lqr(system.A, system.B, Q, R)
    starts = torch.tensor([[1.0, 0.0], [-2.0, 1.0], [0.5, -1.5]]).double()
    return quadratic(system, starts, P), starts, K, (starts @ P * starts).sum(1)


def test_descent_through_the_model_is_the_regulator_to_rounding(problem):
    cost, starts, K, exact = problem
    plan = world.descend(cost, torch.zeros(3, 40, 1).double(), n=500)
    assert ((cost(plan) - exact) / exact).abs().max() < 1e-9
    torch.testing.assert_close(plan[:, 0], -starts @ K.T, atol=1e-4, rtol=0)


def test_cem_is_within_a_percent_at_twenty_steps_and_solves_problems_together(problem):
    cost, _, _, exact = problem
    plan = world.cem(cost, torch.zeros(3, 20, 1).double())
    assert ((cost(plan) - exact) / exact).max() < 0.01 and (cost(plan) >= exact - 1e-9).all()


def test_both_stay_within_bounds_and_agree_there(problem):
    cost, _, _, exact = problem
    start = torch.zeros(3, 15, 1).double()
    found = [f(cost, start, bounds=(-0.3, 0.3)) for f in (world.cem, world.descend)]
    assert all((plan.abs() <= 0.3 + 1e-6).all() for plan in found)
    assert (found[1].abs().amax((1, 2)) > 0.29).any()
    torch.testing.assert_close(cost(found[0]), cost(found[1]), rtol=0.01, atol=0)
    slow = world.descend(cost, start, n=400, lr=0.05)
    torch.testing.assert_close(cost(slow), exact, rtol=0.02, atol=0)


def test_descent_leaves_the_models_own_parameters_alone():
    model = world.RSSM(2, 1)
    state = model.start(4)
    cost = lambda a: model.imagine(state, a).mean.square().sum((1, 2))
    world.descend(cost, torch.zeros(4, 3, 1), n=3, lr=0.1)
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_refused_in_a_sentence(problem):
    cost, start = problem[0], torch.zeros(3, 5, 1).double()
    with pytest.raises(Refused, match="elite"):
        world.cem(cost, start, n=10, elite=11)
    with pytest.raises(Refused, match="on the edge"):
        world.descend(cost, start, bounds=(0.0, 1.0))
    with pytest.raises(Refused, match="one number each"):
        world.cem(lambda a: a.sum(), start)
    with pytest.raises(Refused, match="finite"):
        world.cem(lambda a: a.sum((-1, -2)) * torch.nan, start)
