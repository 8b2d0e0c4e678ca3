"""Zero inflation: a count likelihood beside a gate that makes extra zeros."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid


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

    def expand(self, batch_shape, _instance=None) -> "ZeroInflated":
        """The same distribution over a larger batch."""
        return ZeroInflated(self.base.expand(batch_shape), self.gate_logits.expand(batch_shape))
