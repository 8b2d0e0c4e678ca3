"""What a model has to beat: the rows that stand beside it in every chapter."""

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
    x, of_known, of_new = known["x"], *((b[by] if by else b["x"].new_zeros(len(b["x"])).long()) for b in (known, new))
    levels = of_known.unique()  # sorted
    if (unseen := ~torch.isin(of_new, levels)).any():
        raise Refused(f"{by!r} has the code {of_new[unseen][0]} among new cells and in no known one; leave them out")
    total = torch.stack([x[of_known == level].sum(0) for level in levels]) + 0.5  # (levels, G)
    rho = total / total.sum(1, keepdim=True)

    def mean(b: Minibatch, of: Tensor) -> Tensor:
        return b["log_library"].exp() * rho[torch.searchsorted(levels, of)]  # (B, G)

    fitted = mean(known, of_known)
    score = torch.stack([negative_binomial(fitted, theta).log_prob(x).sum(0) for theta in thetas])  # (thetas, G)
    return negative_binomial(mean(new, of_new), thetas[score.argmax(0)]).log_prob(new["x"]).sum(1)
