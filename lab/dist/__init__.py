"""The laws that torch lacks or has otherwise, as torch distributions: one file a law."""

from .gaussian import gaussian
from .negative_binomial import NegativeBinomial, log_negative_binomial, negative_binomial
from .poisson import Poisson
from .zero_inflated import ZeroInflated
