"""One expression profile for all cells, or one for each label: genes, depth and noise, and no latent variable."""

import torch
from torch import Tensor

from lab.dist import negative_binomial
from lab.errors import Refused
from lab.nets import Minibatch

THETAS = torch.logspace(-1.5, 3, 19)


@torch.no_grad()
def profile(known: Minibatch, new: Minibatch, *, by: str | None = None, thetas: Tensor = THETAS) -> Tensor:
    """Log-likelihood (B,), in nats, of each cell of `new` under one negative binomial profile for all, or one for each
    level of the condition `by`: genes, depth and noise, and no latent variable.

    Proportions are those of the pooled cells of `known`, half a count added to each gene; each gene has the one theta
    of the grid `thetas` that is likeliest over `known`. Raises `Refused` where a level of `new` has no cell in `known`.
    """
    of_known, of_new = (_levels(b, by) for b in (known, new))
    levels, rho, theta = _fitted(known, of_known, thetas)
    if (unseen := ~torch.isin(of_new, levels)).any():
        raise Refused(f"{by!r} has the code {of_new[unseen][0]} among new cells and in no known one; leave them out")
    mean = new["log_library"].exp() * rho[torch.searchsorted(levels, of_new)]  # (B, G)
    return negative_binomial(mean, theta).log_prob(new["x"]).sum(1)


@torch.no_grad()
def profile_cells(
    known: Minibatch, n: int, *, by: str | None = None, seed: int = 0, thetas: Tensor = THETAS
) -> Minibatch:
    """`n` cells drawn from that model: level and depth of a random cell of `known`, counts from its profile."""
    if n < 1:
        raise Refused(f"n={n}: draw one cell or more")
    of_known = _levels(known, by)
    levels, rho, theta = _fitted(known, of_known, thetas)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        like = torch.randint(len(of_known), (n,))
        depth, of = known["log_library"][like], of_known[like]
        x = negative_binomial(depth.exp() * rho[torch.searchsorted(levels, of)], theta).sample()
    return {"x": x, "log_library": depth} | ({by: of} if by else {})


def _levels(b: Minibatch, by: str | None) -> Tensor:
    return b[by] if by else b["x"].new_zeros(len(b["x"])).long()


def _fitted(known: Minibatch, of: Tensor, thetas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, sorted (levels,), their proportions (levels, G), and each gene's theta (G,)."""
    x, levels = known["x"], of.unique()  # sorted
    total = torch.stack([x[of == level].sum(0) for level in levels]) + 0.5  # (levels, G)
    rho = total / total.sum(1, keepdim=True)
    fitted = known["log_library"].exp() * rho[torch.searchsorted(levels, of)]  # (B, G)
    score = torch.stack([negative_binomial(fitted, theta).log_prob(x).sum(0) for theta in thetas])  # (thetas, G)
    return levels, rho, thetas[score.argmax(0)]
