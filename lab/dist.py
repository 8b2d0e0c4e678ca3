"""Count likelihoods as torch distributions, parametrised as biologists do: by mean and inverse dispersion theta."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid


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
        """log NB(x), for counts x that broadcast with the distribution."""
        shape = torch.broadcast_shapes(self.batch_shape, x.shape)
        return _LogNegativeBinomial.apply(self._mean.expand(shape).contiguous(), self.theta, x)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw counts (sample_shape + batch_shape)."""
        shape = self._extended_shape(sample_shape)
        rate = torch.distributions.Gamma(self.theta, self.theta / self.mean).sample(sample_shape)
        return torch.poisson(rate.expand(shape))

    def expand(self, batch_shape, _instance=None) -> "NegativeBinomial":
        """The same distribution over a larger batch."""
        return NegativeBinomial(self.mean.expand(batch_shape), self.theta.expand(batch_shape))


class _LogNegativeBinomial(torch.autograd.Function):
    """log NB(x) = -theta log1p(mean / theta) - x log1p(theta / mean) + log theta [x > 0]
                + log Gamma(x + theta) - log Gamma(1 + theta) - log Gamma(1 + x),

    where the second line is 0 for x = 0 and 1. Most counts of a cell are 0 or 1, so
    gamma functions are evaluated at the others alone, and there in float64: their
    values reach 1e7 and cancel to a few nats. They do not know the mean, so K samples
    of the mean (K, B, G) share those of x (B, G); the rest is done one sample after
    the other, each small enough for the processor's cache. The gradient is written
    out for the same reasons; it is itself not differentiable."""

    @staticmethod
    def forward(ctx, mean: Tensor, theta: Tensor, x: Tensor) -> Tensor:
        lead = mean.dim() - len(torch.broadcast_shapes(theta.shape, x.shape))
        while lead and mean.shape[lead:].numel() < (2**16 if mean.device.type == "cpu" else 2**26):
            lead -= 1  # worth a pass of its own
        x = x.expand(mean.shape[lead:]).contiguous()
        at = (x > 1).view(-1).nonzero().squeeze(1)
        gene = torch.arange(theta.numel(), device=x.device).view(theta.shape)
        gene = gene.expand(x.shape).reshape(-1).index_select(0, at)
        k = x.view(-1).index_select(0, at).double()
        r = theta.reshape(-1).double()
        gammas = ((k + r[gene]).lgamma() - (1 + r).lgamma()[gene] - (1 + k).lgamma()).to(mean.dtype)
        minus_x, seen = -x, x.clamp(max=1)
        log_theta = seen * theta.log()
        value, log_zero = torch.empty_like(mean), torch.empty_like(mean)
        for v, zero, m in zip(*(_samples(full, x) for full in (value, log_zero, mean))):
            torch.div(m, theta, out=zero).log1p_().mul_(-theta)
            torch.mul((theta / m).log1p_(), minus_x, out=v).add_(zero).add_(log_theta)
            v.view(-1).index_add_(0, at, gammas)
            zero.add_(seen)
        ctx.save_for_backward(mean, theta, x, log_zero, at, gene, k, r)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, theta, x, log_zero_plus_seen, at, gene, k, r = ctx.saved_tensors
        for_mean, for_theta, total = torch.empty_like(mean), torch.zeros_like(theta), mean.new_zeros(x.shape)
        for f, g, zero, m in zip(*(_samples(full, x) for full in (for_mean, grad, log_zero_plus_seen, mean))):
            pull = (m - x).mul_(g).div_(m + theta)
            for_theta += pull.sum_to_size(theta.shape) + (g * zero).sum_to_size(theta.shape) / theta
            total += g
            torch.div(pull.mul_(-theta), m, out=f)
        gammas = total.view(-1).index_select(0, at) * ((k + r[gene]).digamma() - (1 + r).digamma()[gene])
        for_theta.view(-1).index_add_(0, gene, gammas.to(for_theta.dtype))
        return for_mean, for_theta, None


def _samples(full: Tensor, x: Tensor) -> Tensor:
    """(..., the shape of x) -> (K, the shape of x)."""
    return full.reshape(full.shape[: full.dim() - x.dim()].numel(), *x.shape)


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
