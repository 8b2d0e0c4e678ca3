"""The diagonal Gaussian is torch's own, one density for a whole vector."""

import torch
from torch.distributions import MultivariateNormal

from lab.dist import gaussian


def test_a_diagonal_gaussian_is_the_multivariate_one_with_that_covariance():
    mean, std, x = torch.randn(3, 5, 4), torch.rand(4) + 0.5, torch.randn(5, 4)
    torch.testing.assert_close(
        gaussian(mean, std).log_prob(x), MultivariateNormal(mean, std.square().diag()).log_prob(x)
    )
    assert gaussian(mean, std).batch_shape == (3, 5) and gaussian(mean, std).event_shape == (4,)
