"""Variational autoencoders: one ELBO over any (prior, posterior, likelihood), and the parts that make it count cells.

`cond`, wherever it occurs, is the minibatch: a dict from which a decoder takes what it needs besides z (`log_library`,
the codes of the conditions), or None where nothing is needed. `b | {"disease": codes}` is the same cells under another
condition.
"""

from .bounds import VAE, active_units, elbo, iwae_bound, iwae_loss, log_weights, loss
from .counts import (
    NB,
    ZINB,
    ConditionEmbedding,
    CountDecoder,
    Encoder,
    GaussianDecoder,
    LearnedLibrary,
    Log1pRelative,
    Poisson,
    count_vae,
)
from .results import annotate, differential_expression

__all__ = [
    "ConditionEmbedding",
    "CountDecoder",
    "Encoder",
    "GaussianDecoder",
    "LearnedLibrary",
    "Log1pRelative",
    "NB",
    "Poisson",
    "VAE",
    "ZINB",
    "active_units",
    "annotate",
    "count_vae",
    "differential_expression",
    "elbo",
    "iwae_bound",
    "iwae_loss",
    "log_weights",
    "loss",
]
