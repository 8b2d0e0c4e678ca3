"""The diagonal Gaussian: torch's Normal over a whole vector."""

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal


def gaussian(mean: Tensor, std: Tensor) -> Distribution:
    """N(mean, diag(std^2)) over the last axis, of (..., D) one density (...,)."""
    return Independent(Normal(mean, std, validate_args=False), 1)
