"""World models: latent dynamics z' = f(z, action) that are filtered with observations and imagined without, and what to
do with them: forecast, plan, learn a policy.

A model is anything with `start(n)`, `step(state, action, obs=None)` and `likelihood(state)`: bounds and planners ask
for no more. Sequences are obs (B, T, N) and actions (B, T, A); the action at t leads to the observation at t.
"""

from .bounds import fivo, kl_balanced, loss, sequence_elbo
from .dream import ActorCritic, dream_loss, lambda_returns, symexp, symlog, two_hot
from .linear import Belief, System, kalman, lqr, open_loop, steady_state
from .plan import cem, descend
from .rssm import RSSM, State
