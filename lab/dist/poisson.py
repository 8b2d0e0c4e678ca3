"""The Poisson of torch, for counts of every dtype."""

import torch
from torch import Tensor


class Poisson(torch.distributions.Poisson):
    """Counts whose variance is their mean, `rate`."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log Poisson(x) for counts x of any dtype: torch's own adds one to them, and 255 + 1 is 0 in uint8."""
        return super().log_prob(x.to(torch.promote_types(x.dtype, self.rate.dtype)))
