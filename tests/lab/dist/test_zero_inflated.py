"""Zero inflation: a law that sums to one, and a gate whose gradient is the excess of zeros."""

import numpy as np
import pytest
import torch

from lab.dist import ZeroInflated, negative_binomial


@pytest.mark.parametrize("gate", [-3.0, 0.4, 5.0])
def test_zero_inflation_sums_to_one_with_the_mean_and_variance_it_claims(gate):
    k = torch.arange(0, 2000).double()
    d = ZeroInflated(
        negative_binomial(torch.tensor(3.2).double(), torch.tensor(1.7).double()), torch.tensor(gate).double()
    )
    p = d.log_prob(k).exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0).double())
    torch.testing.assert_close((p * k).sum(), d.mean)
    torch.testing.assert_close((p * k**2).sum() - d.mean**2, d.variance)


@pytest.mark.parametrize("seed", range(3))
def test_the_gates_gradient_is_pi_times_the_relative_excess_of_zeros(seed):
    """d E[log ZINB] / d logit = pi (observed - predicted zeros) / predicted zeros."""
    random = np.random.default_rng(seed)
    mean, theta, logit = torch.tensor(random.uniform(0.3, 6, 3), dtype=torch.float64).unbind()
    base = negative_binomial(mean, theta)
    gate = (logit - 3).requires_grad_()
    k = torch.arange(4000.0).double()
    for extra in (0.0, 0.4):  # the law of the data: the same NB with this gate
        truth = (1 - extra) * base.log_prob(k).exp() + extra * (k == 0)
        (ZeroInflated(base, gate).log_prob(k) * truth).sum().backward()
        pi = gate.detach().sigmoid()
        predicted = pi + (1 - pi) * base.log_prob(k[0]).exp()
        torch.testing.assert_close(gate.grad, pi * (truth[0] - predicted) / predicted)
        assert (gate.grad > 0) == (extra > pi)
        gate.grad = None
