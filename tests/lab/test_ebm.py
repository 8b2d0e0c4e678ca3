"""Energies against what is known of them: integrals, enumerations, the gradient of the exact likelihood."""

import math
from itertools import product

import pytest
import torch
from scipy.integrate import dblquad

from lab import ebm, train
from lab.errors import Refused
from lab.nets import mlp


def double_well(x):
    return (x[:, 0] ** 2 - 1) ** 2 * 2 + 0.5 * (x[:, 1] - 0.5 * x[:, 0]) ** 2


def gaussian(std):
    return lambda x: x.square().sum(-1) / (2 * std**2)


def of_normal(std):
    return lambda x: torch.distributions.Normal(0.0, std).log_prob(x).sum(-1)


def test_the_partition_function_is_scipys_and_that_of_a_gaussian():
    energy = lambda y, x: math.exp(-double_well(torch.tensor([[x, y]], dtype=torch.float64)).item())
    exact = math.log(dblquad(energy, -3, 3, -6, 6, epsabs=1e-5)[0])
    assert ebm.log_partition(double_well).item() == pytest.approx(exact, abs=1e-5)
    assert ebm.log_partition(gaussian(0.7)).item() == pytest.approx(math.log(2 * math.pi * 0.49), abs=1e-6)


def test_a_square_that_cuts_the_mass_and_an_energy_without_a_z_are_refused():
    for energy in (gaussian(4.0), lambda x: -x.sum(-1), lambda x: 0 * x[:, 0]):
        with pytest.raises(Refused, match="widen"):
            ebm.log_partition(energy)


def test_the_trapezoid_rule_halves_its_ends():
    """A constant energy integrates to the area, were it not refused; half of the mass at the edge is a plane's rim."""
    flat_inside = lambda x: (x.abs().amax(-1) > 5.3).float() * 50
    line = torch.linspace(-6, 6, 301)
    width = (line.abs() <= 5.3).sum() * 12 / 300
    assert ebm.log_partition(flat_inside).exp().item() == pytest.approx(width.item() ** 2, rel=1e-4)


def test_a_confined_energy_is_the_net_and_a_parabola_whose_score_autograd_has():
    net = mlp(2, 8, 1)
    energy, x = ebm.Confined(net, 2.0), torch.randn(5, 2)
    torch.testing.assert_close(energy(x), net(x)[:, 0] + x.square().sum(1) / 8)
    torch.testing.assert_close(ebm.score(gaussian(0.5), x), -4 * x)
    torch.testing.assert_close(ebm.Confined(net, math.inf)(x), net(x)[:, 0])
    with pytest.raises(Refused, match="positive"):
        ebm.Confined(net, 0.0)


def test_contrast_with_draws_of_the_model_has_the_gradient_of_the_exact_likelihood():
    """The model's phase by draws of it on the grid: their mean is the gradient that autograd finds in log Z."""
    torch.manual_seed(0)
    energy, real = ebm.Confined(mlp(2, 16, 1), 1.0), torch.randn(200, 2)
    ebm_grad = torch.autograd.grad
    line = torch.linspace(-6, 6, 301)
    grid = torch.cartesian_prod(line, line)
    log_z = (-energy(grid)).logsumexp(0)
    exact = ebm_grad(energy(real).mean() + log_z, list(energy.parameters()), allow_unused=True)
    fake = grid[(-energy(grid)).softmax(0).multinomial(400_000, replacement=True)]
    found = ebm_grad(ebm.contrastive(energy, real, fake)["loss"], list(energy.parameters()), allow_unused=True)
    for a, b in zip(exact[:-1], found[:-1]):  # the last bias is a constant of the energy, of gradient 0
        assert (a - b).norm() < 0.02 * (1 + a.norm())
    assert found[-1].abs().max() < 1e-4


def test_the_penalty_is_the_squares_and_the_chains_get_no_gradient():
    fake = torch.tensor([[2.0]], requires_grad=True)
    report = ebm.contrastive(lambda x: 3 * x[:, 0], torch.tensor([[1.0]]), fake, l2=0.1)
    assert report["gap"] == -3 and report["loss"].item() == pytest.approx(-3 + 0.1 * (9 + 36))
    assert not report["loss"].requires_grad


def test_replayed_chains_have_the_law_of_langevin_at_its_step_and_persist():
    torch.manual_seed(0)
    start = 3 * torch.randn(4000, 2)
    replay = ebm.Replay(start, reset=0.0)
    one = replay.draw(gaussian(1.0), 1, step=0.5, n_steps=1)
    assert ((replay.x != start).any(1)).sum() == 1 and (replay.x == one).all(1).sum() == 1
    for _ in range(30):
        x = replay.draw(gaussian(1.0), 4000, step=0.5, n_steps=2)
    assert x.var().item() == pytest.approx(1 / (1 - 0.25), rel=4 * math.sqrt(2 / 8000))


def test_a_reset_sends_its_fraction_back_to_the_start():
    torch.manual_seed(0)
    replay = ebm.Replay(0.1 * torch.randn(20_000, 1), reset=0.25)
    replay.x += 100
    x = replay.draw(lambda x: 0 * x[:, 0], 20_000, step=1e-6, n_steps=1)
    assert (x < 50).float().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))
    assert x[x < 50].std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("size, reset", [(0, 0.1), (10, -0.1), (10, 1.1)])
def test_a_replay_that_cannot_be_is_refused(size, reset):
    with pytest.raises(Refused, match="fraction"):
        ebm.Replay(torch.zeros(size, 2), reset=reset)


def test_a_draw_of_more_than_there_are_and_a_chain_that_leaves_are_refused():
    replay = ebm.Replay(torch.randn(10, 2))
    with pytest.raises(Refused, match="draw fewer"):
        replay.draw(gaussian(1.0), 11, step=0.1, n_steps=1)
    with pytest.raises(Refused, match="smaller step"):
        replay.draw(gaussian(0.1), 10, step=1.0, n_steps=200)


def test_noise_contrast_learns_log_z_and_the_width_of_a_gaussian():
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.log_std, self.log_z = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))

        def forward(self, x):
            return -x.square().sum(-1) / (2 * (2 * self.log_std).exp()) - self.log_z

    model, real, noise = Model(), 0.6 * torch.randn(20_000, 2), torch.randn(40_000, 2)
    loss = lambda b: ebm.nce_loss(model, real, noise, of_normal(1.0))
    train.fit(model, loss, [{"x": real[:1]}], n=300, lr=0.03)
    std = model.log_std.exp().item()
    assert std == pytest.approx(0.6, rel=0.02)
    assert model.log_z.item() == pytest.approx(math.log(2 * math.pi * std**2), abs=0.03)


def test_telling_by_the_true_ratio_costs_the_entropy_of_the_label_and_less_than_a_coin():
    torch.manual_seed(0)
    x = torch.randn(1000, 2)
    same = ebm.nce_loss(of_normal(1.0), x, torch.randn(3000, 2), of_normal(1.0))
    assert same["loss"].item() == pytest.approx(4 * (0.25 * math.log(4) + 0.75 * math.log(4 / 3)), abs=1e-4)
    assert same["accuracy"] == 0.5  # the prior alone says "noise" of all
    told = ebm.nce_loss(of_normal(0.2), 0.2 * x, torch.randn(1000, 2), of_normal(1.0))
    assert told["accuracy"] > 0.9 and told["loss"] < 2 * math.log(2)


def test_annealed_weights_have_the_partition_function_as_their_mean_and_their_logs_fall_short():
    exact, logs = ebm.log_partition(double_well).item(), []
    for n in (10, 200):
        torch.manual_seed(0)
        x = 2.0 * torch.randn(4000, 2)
        log_w, x = ebm.ais(double_well, x, of_normal(2.0), powers=torch.linspace(0, 1, n + 1), step=0.1)
        error = log_w.exp().std() / log_w.exp().mean() / len(x) ** 0.5
        assert abs(log_w.logsumexp(0) - math.log(len(x)) - exact) < 4 * error
        logs.append(log_w.mean().item())
    assert logs[0] < logs[1] - 0.1 and logs[1] < exact
    assert abs((x[:, 0] ** 2).mean() - 1) < 0.2  # they end where the energy is low


def test_annealing_from_the_energy_itself_weighs_all_alike():
    x = torch.randn(50, 2)
    log_w, _ = ebm.ais(gaussian(1.0), x, of_normal(1.0), powers=torch.linspace(0, 1, 5), step=0.2)
    torch.testing.assert_close(log_w, torch.full((50,), math.log(2 * math.pi)))


@pytest.mark.parametrize("powers", [[0.1, 1.0], [0.0, 0.9], [0.0, 0.5, 0.4, 1.0]])
def test_temperatures_that_do_not_lead_from_the_prior_to_the_energy_are_refused(powers):
    with pytest.raises(Refused, match="from 0"):
        ebm.ais(gaussian(1.0), torch.randn(5, 2), of_normal(1.0), powers=torch.tensor(powers), step=0.1)


def machine(n_visible, n_hidden):
    """A Boltzmann machine of standard normal weights, its visible states, and their log-weights, summed over h by brute
    force."""
    torch.manual_seed(0)
    rbm = ebm.RBM(n_visible, n_hidden)
    for p in rbm.parameters():
        torch.nn.init.normal_(p)
    vs = torch.tensor(list(product([0.0, 1.0], repeat=len(rbm.a))))
    hs = torch.tensor(list(product([0.0, 1.0], repeat=len(rbm.b))))
    joint = vs @ rbm.W @ hs.T + (vs @ rbm.a)[:, None] + (hs @ rbm.b)[None]
    return rbm, vs, joint.logsumexp(1)


def test_a_boltzmann_machines_energy_and_partition_function_are_the_sums_over_all_states():
    rbm, vs, log_w = machine(5, 4)
    torch.testing.assert_close(-rbm(vs), log_w)
    torch.testing.assert_close(rbm.log_partition(), log_w.logsumexp(0))


def test_gibbs_keeps_the_law_of_the_machine():
    rbm, vs, log_w = machine(3, 2)
    law = log_w.softmax(0).detach()
    v = rbm.gibbs(torch.zeros(40_000, 3), 30)
    found = torch.bincount((v @ torch.tensor([4.0, 2.0, 1.0])).long(), minlength=8) / len(v)
    assert (found - law).abs().max() < 4 * math.sqrt(0.25 / len(v))


def test_a_machine_too_large_to_sum_is_refused():
    with pytest.raises(Refused, match="too many"):
        ebm.RBM(4, 21).log_partition()
