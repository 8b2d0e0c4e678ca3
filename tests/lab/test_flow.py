"""Flows: the loss has its floor, couplings are the optimum that other solvers find, maps and densities are exact."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.distributions import MultivariateNormal

from lab import denoise, flow, nets, train
from lab.errors import Refused
from lab.path import like, linear

COV = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
DOWN = torch.linspace(1, 0, 101, dtype=torch.float64)


def noise(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(n=1000, seed=0):
    torch.manual_seed(seed)
    return MultivariateNormal(MEAN, COV).sample((n,))


def exact(x, t, cond=None):
    """The marginal velocity between N(MEAN, COV) and N(0, I)."""
    t = t.expand(len(x))[:, None, None]
    var = (1 - t) ** 2 * COV + t**2 * EYE
    pull = (t * EYE - (1 - t) * COV) @ torch.linalg.inv(var)
    return -MEAN + (pull @ (x - (1 - t[..., 0]) * MEAN)[..., None])[..., 0]


def line(std=3.0, mean=0.0):
    """The exact velocity between N(mean, std^2) and N(0, 1), and its map from t to s."""

    def spread(t):
        return ((1 - t) ** 2 * std**2 + t**2).sqrt()

    def velocity(x, t, cond=None):
        gain = (t - (1 - t) * std**2) / spread(t) ** 2
        return -mean + like(gain, x) * (x - like(1 - t, x) * mean)

    def move(x, t, s):
        return like(1 - s, x) * mean + like(spread(s) / spread(t), x) * (x - like(1 - t, x) * mean)

    return velocity, move


def test_the_exact_velocity_has_the_loss_floor_and_a_scaled_one_lies_above():
    torch.manual_seed(0)
    times = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None, None]
    var = (1 - times) ** 2 * COV + times**2 * EYE
    pull = times * EYE - (1 - times) * COV
    told = (pull @ pull @ torch.linalg.inv(var)).diagonal(dim1=1, dim2=2).sum(1).mean()
    floor = (EYE + COV).trace() - told
    losses = [flow.loss(exact, {"x": cells(20_000, seed)})["loss"] for seed in range(5)]
    assert abs(torch.stack(losses).mean() / floor - 1) < 0.01
    assert flow.loss(lambda x, t, cond: 1.1 * exact(x, t), {"x": cells(50_000)})["loss"] > 1.005 * floor


def test_without_a_source_the_loss_is_denoising_a_velocity():
    torch.manual_seed(0)
    x, eps, t = cells(64), noise(64, seed=1), torch.rand(64, dtype=torch.float64)
    mine = flow.loss(exact, {"x": x, "x1": eps, "t": t})
    other = denoise.loss(denoise.Denoiser(exact, linear(), "velocity"), {"x": x, "eps": eps, "t": t})
    by_hand = (exact((1 - t[:, None]) * x + t[:, None] * eps, t) - (eps - x)).square().sum(1).mean()
    torch.testing.assert_close(mine["loss"], other["loss"], rtol=1e-12, atol=0)
    torch.testing.assert_close(mine["loss"], by_hand, rtol=1e-12, atol=0)


def test_the_exact_field_carries_noise_to_the_data():
    x0, x1 = flow.reflow(exact, noise(20_000), DOWN)
    torch.testing.assert_close(x0.mean(0), MEAN, atol=0.04, rtol=0)
    torch.testing.assert_close(x0.T.cov(), COV, atol=0.06, rtol=0)
    assert x1 is not x0 and (x1 == noise(20_000)).all()


def test_a_coupling_is_the_best_of_all_permutations():
    x0, x1 = cells(6), noise(6)
    y0, y1 = flow.couple(x0, x1)
    best = min((x0 - x1[list(p)]).square().sum() for p in permutations(range(6)))
    assert (y0 == x0).all() and sorted(y1[:, 0].tolist()) == sorted(x1[:, 0].tolist())
    torch.testing.assert_close((y0 - y1).square().sum(), best)


def test_a_coupling_costs_what_pot_says():
    ot = pytest.importorskip("ot")
    for d in (2, 50):
        x0, x1 = 3 * noise(128, d, 1) + 1, noise(128, d)
        y0, y1 = flow.couple(x0.float(), x1.float())
        best = ot.emd2([], [], ot.dist(x0.numpy(), x1.numpy()))
        assert abs((y0 - y1).double().square().sum(1).mean() / best - 1) < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x**3,
        lambda x: x.float(),
        lambda x: 0.1 * x + 3 * (torch.arange(len(x)) % 3)[:, None],
        lambda x: torch.where(torch.arange(len(x))[:, None] == 7, 1e6 * x, x),
        lambda x: 1e200 * x,
        lambda x: 0 * x,
    ],
)
@pytest.mark.parametrize("d", [2, 20])
def test_a_coupling_of_many_points_is_the_best_whatever_helps_the_search(change, d):
    x0, x1 = change(noise(300, d, 1)), noise(300, d).to(change(noise(1)).dtype)
    y1 = flow.couple(x0, x1)[1]
    order = linear_sum_assignment(-(x0 @ x1.T).double().numpy())[1]
    assert torch.equal(y1, x1[order]) or not x0.any()
    assert torch.equal(y1[y1[:, 0].argsort()], x1[x1[:, 0].argsort()])


def test_the_search_for_a_coupling_is_given_prices_under_which_few_rows_contend():
    """The first choice of a row is its partner for half of the rows; without prices hardly ever."""
    x0, x1 = 3 * noise(400, 2, 1), noise(400, 2)
    cost, partner = -2 * x0 @ x1.T, flow._assign(x0, x1)
    first = lambda cost: (cost.argmin(1) == partner).double().mean()
    assert first(cost - flow._prices(cost.numpy())) > 0.3 > 0.05 > first(cost)  # 0.48 and 0.02


def test_in_one_dimension_a_coupling_sorts():
    x0, x1 = flow.couple(noise(50, 1) ** 3, noise(50, 1, seed=1))
    assert (x1[x0[:, 0].argsort(), 0].diff() > 0).all()


def test_coupling_within_conditions_leaves_each_its_source():
    x0, x1, level = cells(60), noise(60), torch.arange(60) % 3
    x0 = x0 + 5 * level[:, None]
    _, blind = flow.couple(x0, x1)
    _, seeing = flow.couple(x0, x1, level)
    for k in range(3):
        assert set(seeing[level == k, 0].tolist()) == set(x1[level == k, 0].tolist())
        assert set(blind[level == k, 0].tolist()) != set(x1[level == k, 0].tolist())
        torch.testing.assert_close(seeing[level == k], flow.couple(x0[level == k], x1[level == k])[1])
    torch.testing.assert_close(flow.couple(x0, x1, level, weight=1e6)[1], seeing)
    torch.testing.assert_close(flow.couple(x0, x1, level, weight=0.0)[1], blind)


def test_a_finite_weight_trades_distance_for_condition():
    x0, x1, dose = cells(80), noise(80), torch.rand(80, 1, generator=torch.Generator().manual_seed(0))
    x0 = x0 + 4 * dose
    row = {tuple(p.tolist()): i for i, p in enumerate(x1)}
    cost = []
    for weight in (0.0, 10.0, 1000.0):
        y0, y1 = flow.couple(x0, x1, dose, weight=weight)
        apart = (dose - dose[[row[tuple(p.tolist())] for p in y1]]).square().sum(1).mean()
        cost.append([(y0 - y1).square().sum(1).mean(), apart])
    cost = np.array(cost)
    assert (np.diff(cost[:, 0]) > 0).all() and (np.diff(cost[:, 1]) < 0).all()


def test_couplings_of_any_shape_and_precision():
    x0, x1 = torch.randn(8, 2, 3).float(), torch.randn(8, 2, 3).float()
    y1 = flow.couple(x0, x1)[1]
    assert y1.shape == x1.shape and y1.dtype == torch.float32
    assert flow.couple(x0[:1], x1[:1])[1].shape == (1, 2, 3)


def test_path_energy_of_a_gaussian_and_of_a_straight_flow():
    std = torch.tensor(3.0).double()
    velocity, move = line(std)
    x1 = noise(200_000, 1)
    energy, distance = flow.path_energy(velocity, x1, torch.linspace(1, 0, 201).double())
    grid = torch.linspace(0, 1, 20_001).double()
    spread = ((1 - grid) ** 2 * std**2 + grid**2).sqrt()
    slope = (grid - (1 - grid) * std**2) / spread
    truth = torch.trapezoid(slope**2, grid)
    assert abs(energy.mean() / truth - 1) < 0.01 and abs(truth - 5.288) < 1e-3
    torch.testing.assert_close(distance, 4 * x1[:, 0] ** 2, rtol=1e-3, atol=1e-6)
    energy, distance = flow.path_energy(lambda x, t: torch.ones_like(x), x1[:10], DOWN)
    torch.testing.assert_close((energy, distance), (torch.ones(10).double(),) * 2)


def test_the_exact_mean_velocity_has_the_gradient_of_a_minimum():
    """With the true map, d loss / d scale is 0 but for noise; a map without its correction is not at rest."""
    std, n = torch.tensor(2.0).double(), 200_000
    velocity, move = line(std)

    def slope(mean, seed):
        torch.manual_seed(seed)
        gain = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = flow.mean_loss(lambda x, t, s: gain * mean(x, t, s), {"x": std * torch.randn(n, 1).double()})
        return torch.autograd.grad(loss["loss"], gain)[0]

    def right(x, t, s):
        far = like((t - s).clamp(min=1e-9), x)
        return torch.where(like(t - s, x) < 1e-6, velocity(x, t), (x - move(x, t, s)) / far)

    exact_slope = torch.stack([slope(right, k) for k in range(5)])
    plain = torch.stack([slope(lambda x, t, s: velocity(x, t), k) for k in range(5)])
    assert abs(exact_slope.mean()) < 0.02 < 0.1 < abs(plain.mean())


def test_one_evaluation_of_a_trained_mean_velocity_is_the_whole_flow():
    torch.manual_seed(0)
    net = nets.mlp(3, 32, 32, 1)

    def mean(x, t, s):
        return net(torch.cat([x, t[:, None], s[:, None]], 1))

    batches = [{"x": 1 + 0.5 * torch.randn(512, 1)} for _ in range(100)]
    train.fit(net, lambda b: flow.mean_loss(mean, b), batches, n=1000, lr=train.cosine(1e-2, 1000))
    x1, one = torch.randn(5000, 1), torch.ones(5000)
    with torch.no_grad():
        off, euler = (x1 - mean(x1, one, s) - (1 + 0.5 * x1) for s in (0 * one, one))
    assert off.square().mean().sqrt() < 0.15 < 0.4 < euler.square().mean().sqrt()  # 0.03 to 0.12


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_coupling_flow_inverts_and_knows_its_determinant(n):
    torch.manual_seed(0)
    model = flow.CouplingFlow(n, n_layers=5, n_hidden=16).double()
    x = 2 * noise(20, n)
    z, log_det = model(x)
    torch.testing.assert_close(model.inverse(z), x, rtol=1e-9, atol=1e-9)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: model(y[None])[0][0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det, rtol=1e-9, atol=1e-9)


def test_a_coupling_flow_integrates_to_one_and_samples_from_its_density():
    torch.manual_seed(1)
    model = flow.CouplingFlow(2, n_layers=4, n_hidden=16).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    grid = torch.linspace(-12, 12, 801).double()
    with torch.no_grad():
        density = model.log_prob(torch.cartesian_prod(grid, grid)).exp().view(801, 801)
    cell = (grid[1] - grid[0]) ** 2
    assert abs(density.sum() * cell - 1) < 1e-3
    mean = torch.stack([(density.sum(1 - i) * grid).sum() for i in (0, 1)]) * cell
    x = model.inverse(noise(50_000))
    assert (x.mean(0) - mean).abs().max() < 4 * x.std(0).max() / 50_000**0.5


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: flow.loss(exact, {"x": noise(4), "x1": noise(3)}), "two ends"),
        (lambda: flow.loss(exact, {"x1": noise(3)}), "two ends"),
        (lambda: flow.couple(noise(4), noise(3)), "as many"),
        (lambda: flow.couple(noise(4), noise(4, 3)), "as many"),
        (lambda: flow.couple(noise(0), noise(0)), "as many"),
        (lambda: flow.couple(noise(4) * math.nan, noise(4)), "finite"),
        (lambda: flow.couple(noise(4), noise(4), torch.zeros(3).long()), "codes"),
        (lambda: flow.couple(noise(4), noise(4), torch.zeros(4, 1)), "finite weight"),
        (lambda: flow.couple(noise(4), noise(4), torch.zeros(4).long(), weight=-1.0), "from 0 up"),
        (lambda: flow.reflow(exact, noise(4), DOWN.flip(0)), "decrease"),
        (lambda: flow.reflow(exact, noise(4), DOWN[:1]), "two times"),
        (lambda: flow.path_energy(exact, noise(4), DOWN.flip(0)), "from 1 to 0"),
        (lambda: flow.mean_loss(exact, {}), "two ends"),
        (lambda: flow.CouplingFlow(1), "two"),
        (lambda: flow.CouplingFlow(2).log_prob(torch.zeros(3)), "points"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, word):
    with pytest.raises(Refused, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
