"""Variational autoencoders: one ELBO over any (prior, posterior, likelihood), and the parts that make it count cells.

Bounds take `(model, x, cond)` and return (B,); losses take `(model, b)`, where the minibatch `b` is the `cond` of its
own `b["x"]`: a decoder takes from it what it needs besides z (`log_library`, the codes of the conditions).
`b | {"disease": codes}` is the same cells under another condition.
"""

from .bounds import VAE, active_units, elbo, iwae_bound, iwae_loss, log_weights, loss, terms
from .cells import Encoder, GaussianDecoder, LearnedLibrary, count_vae
from .differential import differential_expression
from .results import annotate
