"""Scores: identities that tell the two apart, matching that is exact on Gaussians, and Tweedie's second order."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Gamma, MultivariateNormal

from lab import denoise, nets, score
from lab import path as P
from lab.data import toys

COV = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


def cells(n=500, seed=0):
    torch.manual_seed(seed)
    return MultivariateNormal(torch.tensor([1.0, -2.0]).double(), COV).sample((n,))


def network(seed=0, d=2):
    torch.manual_seed(seed)
    return nets.mlp(d, 16, d).double()


def gamma_log_prob(theta, x):
    return Gamma(theta[0], theta[1], validate_args=False).log_prob(x)


def test_fishers_score_has_mean_0_and_the_information_for_its_covariance():
    theta, n = torch.tensor([2.0, 0.5]).double(), 400_000
    torch.manual_seed(0)
    u = score.fisher(gamma_log_prob, theta, Gamma(*theta).sample((n,)))
    information = torch.tensor(
        [[torch.polygamma(1, theta[0]), -1 / theta[1]], [-1 / theta[1], theta[0] / theta[1] ** 2]]
    )
    assert (u.mean(0).abs() < 4 * u.std(0) / n**0.5).all()
    torch.testing.assert_close(u.T.cov(), information.double(), rtol=0.03, atol=0.03)


def test_fishers_score_is_the_gradient_that_reverse_mode_finds():
    theta, x = torch.tensor([2.0, 0.5]).double(), torch.tensor([0.3, 4.0, 9.0]).double()
    rows = torch.autograd.functional.jacobian(lambda p: gamma_log_prob(p, x), theta)
    torch.testing.assert_close(score.fisher(gamma_log_prob, theta, x), rows)


@pytest.mark.parametrize("seed", range(2))
def test_steins_score_averages_to_0_and_against_x_to_minus_the_identity(seed):
    toy = toys.gaussian_mixture()
    x = torch.tensor(toy.sample(200_000, seed).X).double()
    s = score.stein(toy.log_prob, x)
    torch.testing.assert_close(s, toy.score(x))
    assert (s.mean(0).abs() < 4 * s.std(0) / len(x) ** 0.5).all()
    torch.testing.assert_close(x.T @ s / len(x), -torch.eye(2).double(), rtol=0, atol=0.05)


def test_of_a_shift_the_two_scores_are_one_number_with_opposite_signs():
    log_prob = lambda theta, x: -((x - theta).square().sum(-1) ** 2)
    x, theta = cells(20), torch.tensor([0.2, -0.3]).double()
    of_theta = score.fisher(log_prob, theta, x)
    torch.testing.assert_close(of_theta, -score.stein(lambda x: log_prob(theta, x), x))


@pytest.mark.parametrize("grad", [True, False])
def test_the_divergence_is_the_trace_of_the_jacobian_also_where_gradients_are_off(grad):
    net, x = network(d=3), torch.randn(7, 3).double()
    trace = torch.func.vmap(torch.func.jacrev(net))(x).diagonal(dim1=1, dim2=2).sum(-1)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(score.divergence(net, x), trace)


def test_random_directions_give_the_divergence_with_hutchinsons_variance():
    torch.manual_seed(0)
    A, n = torch.randn(6, 6).double(), 100_000
    sym = (A + A.T) / 2
    x, v = torch.zeros(n, 6).double(), torch.randn(n, 6).double()
    full, off = sym.square().sum(), sym.square().sum() - sym.diagonal().square().sum()
    for direction, variance in ((v, 2 * full), (v.sign(), 2 * off)):
        guess = score.hutchinson(lambda x: x @ A.T, x, direction)
        assert abs(guess.mean() - A.trace()) < 4 * guess.std() / n**0.5
        assert guess.var().item() == pytest.approx(variance.item(), rel=0.05)


def test_explicit_matching_of_a_linear_score_is_maximum_likelihood():
    """J is quadratic: at the inverse of the sample covariance its gradient is 0 and its value minus the trace."""
    x = cells()
    linear = nn.Linear(2, 2).double()
    precision = torch.linalg.inv(x.T.cov(correction=0))
    linear.weight.data, linear.bias.data = -precision, precision @ x.mean(0)
    J = score.explicit_loss(linear, {"x": x})["loss"]
    J.backward()
    assert max(p.grad.abs().max() for p in linear.parameters()) < 1e-9
    assert J.item() == pytest.approx(-precision.trace().item())


@pytest.mark.parametrize("seed", range(3))
def test_what_explicit_matching_leaves_out_is_the_size_of_the_true_score(seed):
    """J(s) + E|s*|^2 = E|s - s*|^2, on fresh cells."""
    toy, net = toys.gaussian_mixture(std=0.8), network(seed)
    x = torch.tensor(toy.sample(200_000, seed).X).double()
    with torch.no_grad():
        s, true = net(x), toy.score(x)
        J = score.explicit_loss(net, {"x": x})["loss"]
    terms = s.square().sum(-1) - 2 * (s * true).sum(-1)
    gap = (s - true).square().sum(-1).mean() - true.square().sum(-1).mean()
    assert abs(J - gap) < 5 * terms.std() / len(x) ** 0.5


@pytest.mark.parametrize("seed", range(2))
def test_sliced_matching_is_explicit_matching_in_expectation(seed):
    net, b = network(seed), {"x": cells(300, seed)}
    torch.manual_seed(seed)
    values = torch.stack([score.sliced_loss(net, b)["loss"].detach() for _ in range(300)])
    exact = score.explicit_loss(net, b)["loss"]
    assert abs(values.mean() - exact) < 4 * values.std() / 300**0.5 and values.std() > 1e-4


def test_in_one_dimension_a_direction_of_signs_makes_no_noise():
    net, b = network(d=1), {"x": torch.randn(50, 1).double()}
    torch.testing.assert_close(score.sliced_loss(net, b), score.explicit_loss(net, b))


@pytest.mark.parametrize("loss", [score.explicit_loss, score.sliced_loss])
def test_matching_learns_the_score_of_a_gaussian(loss):
    torch.manual_seed(0)
    x, linear = cells(4000), nn.Linear(2, 2).double()
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.03)
    for _ in range(500):
        optimizer.zero_grad()
        loss(linear, {"x": x})["loss"].backward()
        optimizer.step()
    torch.testing.assert_close(-torch.linalg.inv(linear.weight.data), COV, rtol=0.15, atol=0.1)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "ve"])
def test_the_covariance_of_the_clean_cell_is_that_of_bayes(name):
    """Of a Gaussian it is (cov^-1 + alpha^2 / sigma^2)^-1 at every x; of a mixture, by weighing 10^6 clean cells."""
    path, x = getattr(P, name)(), cells(6)
    for time in (torch.tensor(0.4).double(), torch.linspace(0.2, 0.8, 6).double()):
        got = score.posterior_covariance(denoise.gaussian(path, x.mean(0), COV), x, time)
        ratio = (path.alpha(time) / path.sigma(time)) ** 2
        expected = torch.linalg.inv(torch.linalg.inv(COV) + ratio.reshape(-1, 1, 1) * torch.eye(2))
        torch.testing.assert_close(got, expected.expand(6, 2, 2))


def test_the_covariance_of_a_mixture_is_that_of_weighed_clean_cells():
    toy, path, t = toys.gaussian_mixture(), P.cosine(), torch.tensor(0.5).double()
    exact = denoise.mixture(path, toy.means, std=toy.std, weights=toy.weights)
    x = torch.tensor([[0.3, 0.2], [-0.5, 0.6]]).double()
    x0 = torch.tensor(toy.sample(10**6, 0).X).double()
    for one in x:
        w = (-(one - path.alpha(t) * x0).square().sum(-1) / (2 * path.sigma(t) ** 2)).softmax(0)
        got = score.posterior_covariance(exact, one[None], t)[0]
        torch.testing.assert_close(got, x0.T.cov(aweights=w), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "mistake, words",
    [
        (lambda: score.fisher(gamma_log_prob, torch.tensor(2.0), torch.ones(3)), r"one vector \(P,\)"),
        (lambda: score.fisher(gamma_log_prob, torch.tensor([1, 2]), torch.ones(3)), r"one vector \(P,\)"),
        (lambda: score.fisher(gamma_log_prob, torch.tensor([1.0, 2.0]), torch.ones(3, 2)), "one number a cell"),
        (lambda: score.stein(lambda x: -x.sum(-1), torch.ones(3, 2, dtype=torch.int64)), "no direction to move in"),
        (lambda: score.hutchinson(network(), torch.ones(3, 2), torch.ones(2)), "one direction a cell"),
        (lambda: score.explicit_loss(network(), {"cells": torch.ones(3, 2)}), r"b\['x'\] \(B, D\); got none"),
        (lambda: score.sliced_loss(network(), {"x": torch.ones(3, dtype=torch.int64)}), "real-valued cells"),
        (
            lambda: score.posterior_covariance(
                denoise.mixture(P.linear(), torch.ones(3, 2)), torch.ones(4, 2), torch.tensor(1.0)
            ),
            "pure noise says nothing",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence(mistake, words):
    with pytest.raises(ValueError, match=words):
        mistake()


def test_an_unnormalised_density_has_the_same_score():
    x = cells(10)
    law = MultivariateNormal(torch.zeros(2).double(), COV)
    shifted = score.stein(lambda x: law.log_prob(x) + math.pi, x)
    torch.testing.assert_close(shifted, -x @ torch.linalg.inv(COV))
