"""Count likelihoods as torch distributions, parametrised as biologists do: by mean and inverse dispersion theta."""
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid


def negative_binomial(mean: Tensor, theta: Tensor, validate_args: bool = True) -> "NegativeBinomial":
    """Counts with the given mean and Var = mean + mean^2 / theta; theta -> infinity is the Poisson.

    Raises ValueError where a mean or theta is not positive and finite; a training loop, whose decoder guarantees both,
    passes validate_args=False.
    """
    if validate_args:
        for name, value in {"mean": mean, "theta": theta}.items():
            if not ((value > 0) & value.isfinite()).all():
                raise ValueError(f"a negative binomial needs {name} > 0 and finite; "
                                 f"drop genes that were never counted, or add a pseudocount yourself")
    return NegativeBinomial(mean, theta)


class NegativeBinomial(Distribution):
    """A Poisson whose rate is Gamma(shape theta, rate theta / mean)."""

    arg_constraints = {"mean": constraints.positive, "theta": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, theta: Tensor):
        self._mean, self.theta = broadcast_all(mean, theta)
        super().__init__(self._mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self.mean + self.mean**2 / self.theta

    def log_prob(self, x: Tensor) -> Tensor:
        """log NB(x) = log NB(0) + a part that vanishes at x = 0, so it is computed at the non-zero counts alone, and there
        in float64: its terms reach 1e7 and cancel to a few nats."""
        mean, theta, x = torch.broadcast_tensors(self._mean, self.theta, x)
        log_zero = -theta * torch.log1p(mean / theta)
        at = x.reshape(-1).nonzero().squeeze(1)
        m, r, k = (v.reshape(-1)[at].double() for v in (mean, theta, x))
        more = torch.lgamma(k + r) - torch.lgamma(r) - torch.lgamma(k + 1) + k * (m.log() - (m + r).log())
        return log_zero.reshape(-1).index_add(0, at, more.to(log_zero.dtype)).view(x.shape)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw counts (sample_shape + batch_shape)."""
        shape = self._extended_shape(sample_shape)
        rate = torch.distributions.Gamma(self.theta, self.theta / self.mean).sample(sample_shape)
        return torch.poisson(rate.expand(shape))

    def expand(self, batch_shape, _instance=None) -> "NegativeBinomial":
        """The same distribution over a larger batch."""
        return NegativeBinomial(self.mean.expand(batch_shape), self.theta.expand(batch_shape))


class ZeroInflated(Distribution):
    """With probability sigmoid(gate_logits) the count is an extra zero, else a draw from `base`."""

    arg_constraints = {"gate_logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, base: Distribution, gate_logits: Tensor):
        shape = torch.broadcast_shapes(base.batch_shape, gate_logits.shape)
        self.base, self.gate_logits = base.expand(shape), gate_logits.expand(shape)
        super().__init__(shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate_logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        keep = torch.sigmoid(-self.gate_logits)
        return keep * (self.base.variance + (1 - keep) * self.base.mean**2)

    def log_prob(self, x: Tensor) -> Tensor:
        """log of the mixture: the gate can explain a zero, only `base` explains a count."""
        counted = logsigmoid(-self.gate_logits) + self.base.log_prob(x)
        return torch.where(x == 0, torch.logaddexp(logsigmoid(self.gate_logits), counted), counted)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw counts (sample_shape + batch_shape)."""
        x = self.base.sample(sample_shape)
        return x * (torch.rand_like(x) > torch.sigmoid(self.gate_logits))
