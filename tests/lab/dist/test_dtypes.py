"""A count is the same count in every dtype that holds it."""

import pytest
import torch
from torch.distributions import Independent

from lab.dist import Poisson, ZeroInflated, gaussian, log_negative_binomial, negative_binomial

MEAN, THETA = torch.tensor([2.0, 90.0]), torch.tensor([1.0, 3.0])
LAWS = {
    "negative binomial": negative_binomial(MEAN, THETA).log_prob,
    "the readable one": lambda x: log_negative_binomial(x, MEAN, THETA),
    "zero-inflated": ZeroInflated(negative_binomial(MEAN, THETA), torch.zeros(2)).log_prob,
    "Poisson": Poisson(MEAN).log_prob,
    "Gaussian": gaussian(MEAN, THETA).log_prob,
}
KINDS = [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64, torch.float16]
KINDS += [torch.bfloat16, torch.float64]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_of_a_count_is_the_same_in_every_dtype(law, kind):
    x = torch.tensor([3.0, 255.0])
    torch.testing.assert_close(LAWS[law](x.to(kind)).float(), LAWS[law](x))


@pytest.mark.parametrize("law", sorted(LAWS.keys() - {"Gaussian"}))
def test_a_count_of_one_may_be_a_boolean(law):
    torch.testing.assert_close(LAWS[law](torch.tensor([True, False])), LAWS[law](torch.tensor([1.0, 0.0])))


def test_every_law_expands_to_a_larger_batch_with_the_same_densities():
    x = torch.tensor([[0.0, 3.0], [1.0, 200.0]])
    base = negative_binomial(MEAN, THETA)
    for law in (base, ZeroInflated(base, torch.tensor([-1.0, 2.0])), Poisson(MEAN)):
        wide = law.expand((2, 2))
        assert wide.batch_shape == wide.sample().shape == (2, 2) and type(wide) is type(law)
        torch.testing.assert_close(wide.log_prob(x), law.log_prob(x))
        torch.testing.assert_close(wide.variance, law.variance.expand(2, 2))
        torch.testing.assert_close(Independent(law, 1).expand((2,)).log_prob(x), law.log_prob(x).sum(-1))
