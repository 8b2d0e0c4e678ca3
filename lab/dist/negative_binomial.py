"""The negative binomial, parametrised as biologists do: by mean and inverse dispersion theta."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ._kernel import LogNegativeBinomial


def negative_binomial(mean: Tensor, theta: Tensor, validate_args: bool = True) -> "NegativeBinomial":
    """Counts with the given mean and Var = mean + mean^2 / theta; theta -> infinity is the Poisson.

    Raises ValueError where a mean or theta is not positive and finite; a training loop, whose decoder guarantees both,
    passes validate_args=False.
    """
    if validate_args:
        for name, value in {"mean": mean, "theta": theta}.items():
            if not ((value > 0) & value.isfinite()).all():
                raise ValueError(
                    f"a negative binomial needs {name} > 0 and finite; "
                    f"drop genes that were never counted, or add a pseudocount yourself"
                )
    return NegativeBinomial(mean, theta)


def log_negative_binomial(x: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """log NB(x), term by term as in the book: what `NegativeBinomial.log_prob` computes faster, and without the loss
    of digits that float32 suffers here where the gamma functions are large."""
    x = x.to(torch.promote_types(x.dtype, mean.dtype))
    ways = (x + theta).lgamma() - theta.lgamma() - (x + 1).lgamma()  # log of the binomial coefficient
    return ways + theta * (theta / (theta + mean)).log() + torch.xlogy(x, mean / (theta + mean))


class NegativeBinomial(Distribution):
    """A Poisson whose rate is Gamma(shape theta, rate theta / mean)."""

    arg_constraints = {"mean": constraints.positive, "theta": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, theta: Tensor):
        shape = torch.broadcast_shapes(mean.shape, theta.shape)
        self._mean, self.theta = mean.expand(shape), theta  # theta stays small: lgamma once per gene
        super().__init__(shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self.mean + self.mean**2 / self.theta

    def log_prob(self, x: Tensor) -> Tensor:
        """log NB(x), as `log_negative_binomial`, for counts x, of any dtype, that broadcast with the distribution."""
        x = x.to(torch.promote_types(x.dtype, self._mean.dtype))  # minus an unsigned 3 is 253
        shape = torch.broadcast_shapes(self.batch_shape, x.shape)
        return LogNegativeBinomial.apply(self._mean.expand(shape).contiguous(), self.theta, x)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw counts (sample_shape + batch_shape)."""
        shape = self._extended_shape(sample_shape)
        rate = torch.distributions.Gamma(self.theta, self.theta / self.mean).sample(sample_shape)
        return torch.poisson(rate.expand(shape))

    def expand(self, batch_shape, _instance=None) -> "NegativeBinomial":
        """The same distribution over a larger batch."""
        return NegativeBinomial(self.mean.expand(batch_shape), self.theta.expand(batch_shape))
