"""Two models on the same held-out cells: most of what one cell's score says is about the cell, and cancels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lab.errors import Refused


class Paired(NamedTuple):
    """A mean difference and its standard error, in the units of the scores."""

    difference: float
    error: float


def paired(ours: Tensor, theirs: Tensor) -> Paired:
    """Mean of `ours - theirs` over the cells that both scored, (B,) each in the same order, and its standard error.

    The error is that of another draw of held-out cells; what another seed or split of training would change is not
    in it. Raises `Refused` for scores that do not match, fewer than two of them, or one that is not finite.
    """
    ours, theirs = (torch.as_tensor(scores).double() for scores in (ours, theirs))
    if ours.shape != theirs.shape or ours.dim() != 1 or len(ours) < 2:
        raise Refused(
            f"scores are paired cell by cell, two vectors of one length, two or more; "
            f"got {tuple(ours.shape)} and {tuple(theirs.shape)}"
        )
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        raise Refused("a score is NaN or infinite: drop that cell from both vectors, or mend what scored it")
    apart = ours - theirs
    return Paired(apart.mean().item(), (apart.std() / math.sqrt(len(apart))).item())
