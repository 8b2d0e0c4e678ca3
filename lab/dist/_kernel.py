"""The fast log-likelihood of the negative binomial, equal to the readable one in `negative_binomial.py`."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LogNegativeBinomial(torch.autograd.Function):
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
