"""Variational autoencoders: one ELBO over any (prior, posterior, likelihood), and the parts that make it count cells.

`cond`, wherever it occurs, is the minibatch: a dict from which a decoder takes what it needs besides z (`log_library`,
the codes of the conditions), or None where nothing is needed. `b | {"disease": codes}` is the same cells under another
condition.
"""
from .bounds import VAE, active_units, elbo, iwae_bound, iwae_loss, loss
from .counts import (NB, ZINB, ConditionEmbedding, CountDecoder, Encoder, GaussianDecoder, LearnedLibrary,
                     Log1pRelative, Poisson, count_vae)

__all__ = ["NB", "VAE", "ZINB", "ConditionEmbedding", "CountDecoder", "Encoder", "GaussianDecoder", "LearnedLibrary",
           "Log1pRelative", "Poisson", "active_units", "count_vae", "elbo", "iwae_bound", "iwae_loss", "loss"]
