"""Negative binomials: equal to scipy, finite everywhere a count can be, and refused where there is none."""

import time

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln
from torch.distributions import Independent, Poisson

from lab.dist import ZeroInflated, log_negative_binomial, negative_binomial


def scipy_nb(x, mean, theta):
    return stats.nbinom.logpmf(x, theta, theta / (theta + mean))


def exact_nb(x, mean, theta):
    """With 50 digits: at theta = 1e6 and mean = 1e-8, scipy's own 1 - theta / (theta + mean) has lost them."""
    with mpmath.workdps(50):
        x, mean, theta = mpmath.mpf(x), mpmath.mpf(mean), mpmath.mpf(theta)
        return float(
            mpmath.loggamma(x + theta)
            - mpmath.loggamma(theta)
            - mpmath.loggamma(x + 1)
            + theta * mpmath.log(theta / (theta + mean))
            + x * mpmath.log(mean / (theta + mean))
        )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.floats(1e-3, 1e4), st.floats(1e-2, 1e3))
def test_log_prob_equals_fifty_digits_to_the_last_ones(x, mean, theta):
    """scipy itself is off by 1e-8 at x = 277, mean = 0.001, theta = 386, where its 1 - p has lost digits."""
    m, r, k = (torch.tensor(v, dtype=torch.float64) for v in (mean, theta, x))
    got = negative_binomial(m, r).log_prob(k).item()
    want = exact_nb(x, mean, theta)
    largest = abs(gammaln(x + theta)) + abs(gammaln(theta)) + gammaln(x + 1) + x * abs(np.log(mean + theta)) + 1
    assert abs(got - want) <= 1e-12 * largest  # relative to the terms that cancel


def test_log_prob_equals_scipy_to_1e12_on_a_grid_of_ordinary_genes():
    x = torch.arange(0, 60).double()[:, None, None]
    mean, theta = torch.tensor([0.05, 0.7, 3.0, 20.0]).double()[:, None], torch.tensor([0.3, 1.0, 5.0]).double()
    got = negative_binomial(mean, theta).log_prob(x).numpy()
    np.testing.assert_allclose(got, scipy_nb(x.numpy(), mean.numpy(), theta.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", [1e-8, 1e-3, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("theta", [1e-4, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("x", [0, 1, 37, 1_000_000])
def test_float32_values_and_gradients_are_finite_and_right_at_the_extremes(mean, theta, x):
    m, r = torch.tensor(mean).requires_grad_(), torch.tensor(theta).requires_grad_()
    gate = torch.tensor(-2.0).requires_grad_()
    d = negative_binomial(m, r)
    value = d.log_prob(torch.tensor(float(x)))
    (value + ZeroInflated(d, gate).log_prob(torch.tensor(float(x)))).backward()
    assert value.isfinite() and all(p.grad.isfinite() for p in (m, r, gate))
    want = exact_nb(x, m.double().item(), r.double().item())
    assert abs(value.item() - want) < 1e-5 * abs(want) + 2e-4


@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences_in_float64(seed):
    g = torch.Generator().manual_seed(seed)
    m, r = (
        (torch.rand(5, 7, generator=g).double() * 5 + 0.1).requires_grad_(),
        (torch.rand(7, generator=g).double() * 3 + 0.2).requires_grad_(),
    )
    x = torch.poisson(torch.rand(5, 7, generator=g) * 4, generator=g).double()
    assert torch.autograd.gradcheck(lambda m, r: negative_binomial(m, r).log_prob(x), (m, r))


def test_it_is_the_poisson_when_theta_is_large():
    x, mean = torch.arange(0, 30).double(), torch.tensor(6.0).double()
    torch.testing.assert_close(
        negative_binomial(mean, torch.tensor(1e6).double()).log_prob(x), Poisson(mean).log_prob(x), rtol=0, atol=3e-4
    )  # differs by ((x - mean)^2 - x) / 2 theta


@pytest.mark.parametrize("seed", range(3))
def test_samples_follow_the_probabilities(seed):
    torch.manual_seed(seed)
    for d in (
        negative_binomial(torch.tensor(2.5), torch.tensor(0.8)),
        ZeroInflated(negative_binomial(torch.tensor(2.5), torch.tensor(0.8)), torch.tensor(-0.5)),
    ):
        n = 40_000
        seen = torch.bincount(d.sample((n,)).long().clamp(max=12), minlength=13)[:12]
        expected = n * d.log_prob(torch.arange(12.0)).exp()
        chi2 = ((seen - expected) ** 2 / expected).sum().item()
        assert stats.chi2.sf(chi2, 12) > 1e-4


def test_the_batch_broadcasts_like_any_torch_distribution():
    d = ZeroInflated(negative_binomial(torch.ones(4, 5), torch.ones(5)), torch.zeros(5))
    assert Independent(d, 1).log_prob(torch.zeros(4, 5)).shape == (4,)
    assert negative_binomial(torch.ones(3, 1, 5), torch.ones(5)).log_prob(torch.zeros(4, 5)).shape == (3, 4, 5)


@pytest.mark.parametrize(
    "mean, theta, word",
    [
        (0.0, 1.0, "mean"),
        (-1.0, 1.0, "mean"),
        (float("nan"), 1.0, "mean"),
        (1.0, 0.0, "theta"),
        (1.0, float("inf"), "theta"),
    ],
)
def test_impossible_parameters_are_refused_by_name(mean, theta, word):
    with pytest.raises(ValueError, match=f"needs {word} > 0"):
        negative_binomial(torch.tensor([1.0, mean]), torch.tensor(theta))


def test_a_transposed_mean_gives_the_same_numbers():
    mean, theta, x = torch.rand(4, 5) + 0.1, torch.rand(4) + 0.5, torch.full((5, 4), 2.0)
    turned = mean.T.requires_grad_()
    value = negative_binomial(turned, theta).log_prob(x)
    value.sum().backward()
    torch.testing.assert_close(value, negative_binomial(mean.T.contiguous(), theta).log_prob(x))
    assert turned.grad.isfinite().all()


@pytest.mark.parametrize("by_cell", [False, True])
def test_samples_of_the_mean_share_one_table_of_counts_and_change_no_digit(by_cell):
    """Three samples large enough to be taken one after the other, against as many separate calls."""
    g = torch.Generator().manual_seed(0)
    mean = (torch.rand(3, 40, 2000, generator=g) * 4 + 0.01).requires_grad_()
    theta = (torch.rand(*[40] * by_cell, 2000, generator=g) * 3 + 0.2).requires_grad_()
    x, weight = torch.poisson(mean[0].detach(), generator=g), torch.randn(3, 40, generator=g)
    value = negative_binomial(mean, theta).log_prob(x)
    together = torch.autograd.grad((value.sum(-1) * weight).sum(), (mean, theta))
    each = torch.stack([negative_binomial(m, theta).log_prob(x) for m in mean])
    apart = torch.autograd.grad((each.sum(-1) * weight).sum(), (mean, theta))
    assert torch.equal(value, each) and torch.equal(together[0], apart[0])
    torch.testing.assert_close(together[1], apart[1], rtol=1e-5, atol=1e-4)


def test_fifty_samples_cost_less_than_fifty_calls():
    """The counts' gamma functions are evaluated once, not once a sample: 3.5 times faster when this was written."""
    g = torch.Generator().manual_seed(0)
    theta, x = torch.ones(2000), torch.poisson(torch.rand(64, 2000, generator=g) * 6, generator=g)
    mean = torch.rand(20, 64, 2000, generator=g) * 4 + 0.01

    def seconds(call):
        times = []
        for _ in range(5):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return min(times)

    apart = seconds(lambda: [negative_binomial(m, theta, validate_args=False).log_prob(x) for m in mean])
    assert seconds(lambda: negative_binomial(mean, theta, validate_args=False).log_prob(x)) < 0.7 * apart


def test_thinned_negative_binomial_counts_keep_theta():
    mean, theta, p, n = 5.0, 0.6, 0.3, np.arange(1500)
    full = negative_binomial(torch.tensor(mean).double(), torch.tensor(theta).double())
    thinned = stats.binom.pmf(np.arange(20)[:, None], n, p) @ full.log_prob(torch.tensor(n).double()).exp().numpy()
    again = negative_binomial(torch.tensor(p * mean).double(), torch.tensor(theta).double())
    np.testing.assert_allclose(thinned, again.log_prob(torch.arange(20.0).double()).exp(), rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_likelihood_is_the_readable_one_with_its_gradients(seed):
    g = torch.Generator().manual_seed(seed)
    mean = (10 ** (4 * torch.rand(6, 20, 30, generator=g, dtype=torch.float64) - 2)).requires_grad_()
    theta = (10 ** (3 * torch.rand(30, generator=g, dtype=torch.float64) - 1)).requires_grad_()
    x = torch.poisson(mean[0].detach(), generator=g)
    values, gradients = [], []
    for log_prob in (negative_binomial(mean, theta).log_prob(x), log_negative_binomial(x, mean, theta)):
        values.append(log_prob.detach())
        gradients += [torch.autograd.grad((log_prob * x.cos()).sum(), (mean, theta))]
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)
    for fast, readable in zip(*gradients):
        torch.testing.assert_close(fast, readable, rtol=1e-7, atol=1e-7)
