"""Langevin and its correction: variances in closed form, the law that is kept, and what is refused."""

import math
from functools import partial

import pytest
import torch

from lab import path, sample
from lab.data import toys
from lab.errors import Refused

V = 1.5


def gaussian(x):
    return -x.square().sum(-1) / (2 * V)


def chains(n, h, n_steps, seed=0):
    """MALA on N(0, V) from the law itself: the last x, and the fraction accepted."""
    torch.manual_seed(seed)
    steps = list(sample.mala(gaussian, V**0.5 * torch.randn(n, 1).double(), step=h, n_steps=n_steps))
    return steps[-1][0], torch.stack([accepted for _, accepted in steps]).double().mean().item()


@pytest.mark.parametrize("h", [0.3, 1.0, 2.9])
def test_a_step_that_is_a_function_of_time_gives_each_level_its_own_stationary_variance(h):
    """At t = 1 the step is h and at t = 0 a tenth of it; each level runs until it has forgotten the last."""
    torch.manual_seed(0)
    step, times = lambda t: h * (0.1 + 0.9 * t), torch.tensor([1.0, 0.0])
    found = list(sample.langevin(lambda x, t: -x / V, torch.zeros(40_000, 1), times, step, n_steps=200))
    for x, size in zip(found, (h, 0.1 * h), strict=True):
        exact = V / (1 - size / (2 * V))
        assert abs(x.var() / exact - 1) < 4 * math.sqrt(2 / len(x))


def test_a_constant_step_and_a_function_that_returns_it_are_the_same_chain():
    run = []
    for step in (0.2, lambda t: 0.2, lambda t: torch.tensor(0.2)):
        torch.manual_seed(0)
        run.append(sample.last(sample.langevin(lambda x, t: -x, torch.ones(5, 2), torch.zeros(3), step, n_steps=4)))
    assert run[0].equal(run[1]) and run[0].equal(run[2])


@pytest.mark.parametrize("step", [0.0, -0.1, math.nan, lambda t: 0 * t])
def test_langevin_refuses_a_step_that_is_not_positive(step):
    with pytest.raises(Refused, match="positive"):
        sample.last(sample.langevin(lambda x, t: -x, torch.ones(2, 1), torch.zeros(1), step))


def test_langevin_says_when_a_chain_has_diverged():
    with pytest.raises(Refused, match="smaller step"):
        sample.last(sample.langevin(lambda x, t: -x, torch.ones(2, 1), torch.zeros(1), 4.0, n_steps=500))


@pytest.mark.parametrize("h", [0.4, 1.5, 2.9])
def test_mala_keeps_the_variance_that_langevin_inflates(h):
    x, accepted = chains(40_000, h, 20)
    assert abs(x.var() / V - 1) < 4 * math.sqrt(2 / len(x))
    assert 0.3 < accepted < 1


def test_mala_finds_the_law_from_elsewhere_and_beyond_the_step_at_which_langevin_is_stable():
    torch.manual_seed(0)
    x, _ = sample.last(sample.mala(gaussian, torch.full((20_000, 1), 3.0), step=3.3, n_steps=300))
    assert abs(x.var() / V - 1) < 4 * math.sqrt(2 / len(x)) and abs(x.mean()) < 4 * math.sqrt(V / len(x))


def test_every_small_step_is_accepted_and_the_rejected_fall_like_the_step_to_three_halves():
    """On a Gaussian the log-ratio is h / 4 V^2 times x^2 - y^2, which is of order sqrt(h)."""
    rejected = [1 - chains(200_000, h, 1)[1] for h in (0.6, 0.15)]
    assert rejected[1] < 0.02
    assert math.log(rejected[0] / rejected[1], 4) == pytest.approx(1.5, abs=0.3)


def test_mala_proposes_with_the_score_that_autograd_finds():
    """Where nearly all is accepted, a step of MALA is a step of Langevin on the exact score, noise for noise."""
    toy, start = toys.gaussian_mixture(), torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(1)
    x, accepted = sample.last(sample.mala(toy.log_prob, start, step=1e-4, n_steps=1))
    torch.manual_seed(1)
    y = sample.last(sample.langevin(lambda x, t: toy.score(x), start, torch.zeros(1), 1e-4))
    assert accepted.sum() > 45
    torch.testing.assert_close(x[accepted], y[accepted])
    assert x[~accepted].equal(start[~accepted])


def test_what_stays_says_so():
    torch.manual_seed(0)
    before, moved = torch.randn(100, 2).double(), 0
    for x, accepted in sample.mala(gaussian, before, step=4.0, n_steps=10):
        assert ((x != before).any(1) == accepted).all()
        before, moved = x, moved + accepted.sum()
    assert 0 < moved < 1000


def test_a_proposal_outside_the_support_is_rejected():
    """Exponential on x > 0, -inf elsewhere: no chain leaves, and the mean is 1."""
    log_prob = lambda x: torch.where(x > 0, -x, -math.inf).sum(-1)
    torch.manual_seed(0)
    x, _ = sample.last(sample.mala(log_prob, torch.ones(20_000, 1), step=0.7, n_steps=200))
    assert x.min() > 0 and abs(x.mean() - 1) < 4 / math.sqrt(len(x))


def test_mala_takes_cells_of_any_shape_and_leaves_the_start_alone():
    start = torch.ones(4, 3, 2, requires_grad=True)
    x, accepted = sample.last(sample.mala(lambda x: -x.square().sum((1, 2)), start, step=0.1, n_steps=3))
    assert x.shape == start.shape and accepted.shape == (4,) and not x.requires_grad and (start == 1).all()


@pytest.mark.parametrize(
    "log_prob, step, n_steps, why",
    [
        (gaussian, 0.0, 1, "positive"),
        (gaussian, math.nan, 1, "positive"),
        (gaussian, 0.1, 0, "n_steps >= 1"),
        (lambda x: -x.square(), 0.1, 1, "one number a row"),
        (lambda x: -x.square().sum(), 0.1, 1, "one number a row"),
        (lambda x: -math.inf * x.square().sum(-1), 0.1, 1, "positive density|density is positive"),
    ],
)
def test_what_mala_cannot_walk_on_is_refused(log_prob, step, n_steps, why):
    with pytest.raises(Refused, match=why):
        sample.last(sample.mala(log_prob, torch.ones(2, 1), step=step, n_steps=n_steps))


def exact(p, v):
    """Velocity and score of N(0, v) along the path."""

    def score(x, t):
        return -x / (p.alpha(t) ** 2 * v + p.sigma(t) ** 2)

    def velocity(x, t):
        eps = -p.sigma(t) * score(x, t)
        return p.velocity((x - p.sigma(t) * eps) / p.alpha(t), eps, t)

    return velocity, score


def test_the_reverse_sde_has_the_law_of_the_data_up_to_a_bias_that_halves_with_the_step():
    """The variance of N(0, 1/4) under VP(0.1, 20) by the step's own recursion: about .35 / n too large."""
    p, v = path.vp(), 0.25
    _, score = exact(p, v)
    for n, bias in ((50, 0.0080), (100, 0.0038), (200, 0.0018)):
        torch.manual_seed(n)
        times = torch.linspace(1, 0, n + 1).double()
        x = sample.last(sample.euler_maruyama(score, torch.randn(40_000, 1).double(), times, p))
        assert abs(x.var() - v - bias) < 4 * v * math.sqrt(2 / len(x)), n


def test_likelihood_along_the_flow_is_the_density_and_second_order():
    p, v = path.vp(), 4.0
    velocity, _ = exact(p, v)
    end = p.alpha(torch.tensor(1.0).double()) ** 2 * v + p.sigma(torch.tensor(1.0).double()) ** 2
    law = lambda variance: lambda x: torch.distributions.Normal(0, variance**0.5).log_prob(x).sum(1)
    x = torch.linspace(-4, 4, 10).double().view(5, 2)
    truth, errors = law(torch.tensor(v).double())(x), []
    for n in (50, 100, 200):
        times = 1e-3 + (1 - 1e-3) * torch.linspace(0, 1, n + 1).double() ** 2
        start = p.alpha(times[0]) ** 2 * v + p.sigma(times[0]) ** 2
        found = sample.likelihood(velocity, x, times, prior=law(end))
        errors.append((found - law(start)(x)).abs().max().item())
        signs = torch.randint(2, (400, 2)).double() * 2 - 1
        noisy = sample.likelihood(velocity, x[:1].repeat(400, 1), times, prior=law(end), v=signs)
        assert noisy.mean() == pytest.approx(found[0].item(), abs=1e-6), (
            "signs are exact where the Jacobian is diagonal"
        )
    assert errors[0] / errors[1] > 3.4 and errors[1] / errors[2] > 3.4 and errors[2] < 1e-3, errors
    assert (law(start)(x) - truth).abs().max() < 2e-3
    with pytest.raises(Refused, match="times increase"):
        sample.likelihood(velocity, x, times.flip(0), prior=law(end))


def growth(x, t):
    """Its solution from 1 at t = 0 is exp(sin t)."""
    return x * t.cos()


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_adaptive_keeps_to_its_tolerance_both_ways_and_yields_at_the_times_it_is_given(tol):
    times = torch.tensor([0.0, 0.3, 1.0, 2.0]).double()
    up = list(sample.adaptive(growth, torch.ones(3, 1).double(), times, tol=tol))
    assert len(up) == 3
    for x, t in zip(up, times[1:]):
        assert (x - t.sin().exp()).abs().max() < 20 * tol
    down = sample.last(sample.adaptive(growth, up[-1], times.flip(0), tol=tol))
    assert (down - 1).abs().max() < 40 * tol


def test_adaptive_asks_for_no_velocity_outside_its_times():
    seen = []
    field = lambda x, t: seen.append(t.item()) or growth(x, t)
    for times in (torch.tensor([0.2, 1.0]).double(), torch.tensor([1.0, 0.2]).double()):
        sample.last(sample.adaptive(field, torch.ones(2, 1).double(), times, tol=1e-4))
    assert 0.2 <= min(seen) and max(seen) <= 1.0


def test_a_smaller_tolerance_costs_evaluations_and_buys_more_than_fourth_order():
    cost, errors = [], []
    for tol in (1e-4, 1e-9):
        calls = []
        field = lambda x, t, calls=calls: calls.append(1) or growth(x, t)
        x = sample.last(sample.adaptive(field, torch.ones(1, 1).double(), torch.tensor([0.0, 3.0]).double(), tol=tol))
        cost.append(len(calls))
        errors.append(abs(x.item() - math.exp(math.sin(3.0))))
    assert cost[1] > cost[0] and math.log(errors[0] / errors[1]) / math.log(cost[1] / cost[0]) > 4


@pytest.mark.parametrize("tol", [0.0, -1e-3, math.nan])
def test_adaptive_refuses_a_tolerance_that_is_not_positive(tol):
    with pytest.raises(Refused, match="positive"):
        sample.last(sample.adaptive(growth, torch.ones(1, 1), torch.tensor([0.0, 1.0]), tol=tol))


def test_a_corrector_pulls_a_wrong_predictor_to_the_law_that_a_langevin_step_keeps():
    """The predictor does nothing at all: what is left is Langevin dynamics at each time, and its stationary law."""
    torch.manual_seed(0)
    h, times = 0.3, torch.linspace(1, 0, 61)
    stay = lambda x, times: iter([x])
    found = sample.predictor_corrector(stay, lambda x, t: -x / V, torch.full((40_000, 1), 5.0), times, step=h)
    x, exact = sample.last(found), V / (1 - h / (2 * V))
    assert abs(x.var() / exact - 1) < 4 * math.sqrt(2 / len(x)) and abs(x.mean()) < 4 * math.sqrt(exact / len(x))


def test_predictor_and_corrector_take_turns_at_the_new_time():
    """By hand, noise for noise: a predictor's step from t to s, then n_steps of Langevin at s."""
    p, times = path.vp(), torch.linspace(1, 0.1, 4).double()
    _, score = exact(p, V)
    predictor, x = partial(sample.euler_maruyama, score, path=p), torch.ones(5, 2).double()
    step = lambda t: 0.1 * p.sigma(t) ** 2
    torch.manual_seed(0)
    got = list(sample.predictor_corrector(lambda x, t: predictor(x, t), score, x, times, step=step, n_steps=2))
    torch.manual_seed(0)
    for two, found in zip(times.unfold(0, 2, 1), got, strict=True):
        x = sample.last(predictor(x, two))
        for _ in range(2):
            x = x + step(two[1]) * score(x, two[1]) + (2 * step(two[1])).sqrt() * torch.randn_like(x)
        torch.testing.assert_close(found, x)


def quadratic(x):
    return -x.square().flatten(1).sum(1) / 2


def drift_of_energy(step, n=40):
    """dH of `n` leapfrog steps on N(0, 1), from 20,000 draws of its law."""
    torch.manual_seed(0)
    x, p = torch.randn(2, 20_000, 1).double()
    y, q = sample.leapfrog(lambda x: -x, x, p, step=step, n=n)
    return (y**2 + q**2 - x**2 - p**2)[:, 0] / 2


def test_leapfrog_is_second_order_and_exp_of_minus_its_error_is_one_on_average():
    sizes = [drift_of_energy(step, round(1.2 / step)).square().mean().sqrt() for step in (0.4, 0.2, 0.1)]
    assert 3.7 < sizes[0] / sizes[1] < 4.6 and 3.7 < sizes[1] / sizes[2] < 4.3
    drift = drift_of_energy(1.2, 3)
    assert abs((-drift).exp().mean() - 1) < 4 * (-drift).exp().std() / math.sqrt(len(drift))
    assert drift.mean() > 10 * drift.std() / math.sqrt(len(drift))


def test_leapfrog_keeps_its_shadow_is_reversible_and_keeps_volume():
    torch.manual_seed(0)
    x, p = torch.randn(2, 50, 1).double()
    y, q = sample.leapfrog(lambda x: -x, x, p, step=0.7, n=25)
    shadow = lambda x, p: x**2 * (1 - 0.7**2 / 4) + p**2
    torch.testing.assert_close(shadow(y, q), shadow(x, p), rtol=1e-12, atol=1e-12)
    toy = toys.gaussian_mixture()
    x, p = torch.randn(2, 50, 2).double()
    y, q = sample.leapfrog(toy.score, x, p, step=0.1, n=20)
    back, turned = sample.leapfrog(toy.score, y, -q, step=0.1, n=20)
    assert (back - x).abs().max() < 1e-9 and (turned + p).abs().max() < 1e-9
    flow = lambda z: torch.cat(sample.leapfrog(toy.score, z[None, :2], z[None, 2:], step=0.1, n=5), 1)[0]
    jacobian = torch.func.jacrev(flow)(torch.cat([x[0], p[0]]))
    assert abs(jacobian.det().abs() - 1) < 1e-9


def test_one_leapfrog_step_is_a_step_of_mala_draw_for_draw():
    toy, start = toys.gaussian_mixture(), torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    runs = []
    for steps in (
        sample.mala(toy.log_prob, start, step=0.05, n_steps=20),
        sample.hmc(toy.log_prob, start, step=0.1**0.5, n_leapfrog=1, n_steps=20),
    ):
        torch.manual_seed(0)
        runs.append(sample.last(steps))
    torch.testing.assert_close(runs[0][0], runs[1][0])
    assert runs[0][1].equal(runs[1][1])


@pytest.mark.parametrize("step, n_leapfrog", [(0.3, 5), (1.9, 3)])
def test_hmc_has_the_variance_of_the_law_whatever_the_step(step, n_leapfrog):
    torch.manual_seed(0)
    x, _ = sample.last(
        sample.hmc(quadratic, torch.full((40_000, 1), 2.0), step=step, n_leapfrog=n_leapfrog, n_steps=60)
    )
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / len(x)) and abs(x.mean()) < 4 / math.sqrt(len(x))


def test_hmc_beyond_the_stable_step_stays_and_says_so():
    start = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    x, accepted = sample.last(sample.hmc(quadratic, start, step=2.5, n_leapfrog=200, n_steps=3))
    assert not accepted.any() and x.equal(start)


def test_hmc_rejects_a_proposal_outside_the_support():
    log_prob = lambda x: torch.where(x > 0, -x, -math.inf).sum(-1)
    torch.manual_seed(0)
    x, _ = sample.last(sample.hmc(log_prob, torch.ones(20_000, 1), step=0.5, n_leapfrog=3, n_steps=200))
    assert x.min() > 0 and abs(x.mean() - 1) < 4 / math.sqrt(len(x))


@pytest.mark.parametrize(
    "log_prob, step, n_leapfrog, n_steps, why",
    [
        (gaussian, 0.0, 1, 1, "positive"),
        (gaussian, 0.1, 0, 1, "n_steps >= 1"),
        (gaussian, 0.1, 1, 0, "n_steps >= 1"),
        (lambda x: -x.square(), 0.1, 1, 1, "one number a row"),
        (lambda x: -math.inf * x.square().sum(-1), 0.1, 1, 1, "density is positive"),
    ],
)
def test_what_hmc_cannot_walk_on_is_refused(log_prob, step, n_leapfrog, n_steps, why):
    with pytest.raises(Refused, match=why):
        sample.last(sample.hmc(log_prob, torch.ones(2, 1), step=step, n_leapfrog=n_leapfrog, n_steps=n_steps))
