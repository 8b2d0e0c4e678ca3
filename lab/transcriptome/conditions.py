"""What was done to a cell, as the token that a sequence begins with and as marks on the genes that it was done to."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.baselines.perturb import parts
from lab.errors import Refused
from lab.nets import Minibatch


class Conditions(nn.Module):
    """The condition token (U, W) of amounts (U, P) of perturbations' parts, a sum over parts of one vector each.

    Without `descriptors` that vector is learned for each part that training cells carried. With them, a table parts x
    features (a compound's fingerprint, what is known of a gene), it is a linear map of the part's row, in units of the
    training parts' spread, so that it is there for any part with a row. All others have one vector, `unknown`. In
    training a part has it, too, with the probability `drop`, so that the network knows what can be said of a part of
    which nothing is known; at 1 none ever has another.

    A part that is the name of one of `genes` also marks it: the token of that gene is told. With `marks=False`, the
    ablation, only the condition token knows. What can be asked for is what has a vector of its own or a mark. How many
    training parts have no descriptor, or no mark where others have, is printed. `design` is `perturb.Design`, or what
    has its attributes.
    """

    def __init__(
        self,
        design,
        genes: pd.Index,
        width: int,
        *,
        descriptors: pd.DataFrame | None = None,
        marks: bool = True,
        drop: float = 0.5,
    ):
        super().__init__()
        if not 0 <= drop <= 1 or drop == 1 and not marks:
            raise Refused(f"drop={drop}: the probability that a part is not told is from 0 to 1, below 1 without marks")
        self.control, self.separator, self.drop, self.described = (
            design.control,
            design.separator,
            drop,
            descriptors is not None,
        )
        known, n = list(design.parts), len(design.parts)
        more = [] if descriptors is None else list(descriptors.index.astype(str))
        self.parts = pd.Index([*known, *more, *(genes.astype(str) if marks else ())]).drop_duplicates()
        at = genes.get_indexer(self.parts) if marks else np.full(len(self.parts), -1)
        _say((at[:n] >= 0) | (not marks or (at[:n] < 0).all()), known, "are no gene of the sequence", "no mark")
        self.register_buffer("at", torch.tensor(at))
        self.base, self.mark = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.unknown, own = nn.Parameter(torch.zeros(width)), (np.arange(len(self.parts)) < n) & (drop < 1)
        if not self.described:
            self.vectors = nn.Parameter(torch.randn(n, width))
        else:
            units, there = _standardised(descriptors, self.parts, n)
            own = there & (drop < 1)
            _say(there[:n], known, "have no descriptor", "one learned vector serves for all")
            self.register_buffer("features", torch.tensor(units, dtype=torch.float32))
            self.map = nn.Linear(units.shape[1], width)
            nn.init.normal_(self.map.weight, std=units.shape[1] ** -0.5)
        self.register_buffer("own", torch.tensor(own))

    def forward(self, amounts: Tensor) -> Tensor:
        told = amounts * self.own
        if self.training and self.drop:
            told = told * (torch.rand_like(told) >= self.drop)
        vectors = told @ self.map(self.features) if self.described else told[:, : len(self.vectors)] @ self.vectors
        return self.base + vectors + (amounts - told).sum(1, keepdim=True) * self.unknown

    def marked(self, amounts: Tensor, n_genes: int) -> Tensor:
        """How much of a perturbation each gene itself has had, (U, G)."""
        own = self.at >= 0
        return amounts.new_zeros(len(amounts), n_genes).index_add(1, self.at[own], amounts[:, own])

    def amounts(self, design, b: Minibatch) -> Tensor:
        """What the cells of a minibatch carry, (B, P)."""
        given = design(b)
        return nn.functional.pad(given, (0, len(self.parts) - given.shape[1]))

    def row(self, name: str) -> Tensor:
        """The same of one label, (1, P); `Refused` for a part of which nothing is known."""
        of = () if name == self.control else parts(name, self.separator)
        at = self.parts.get_indexer(list(of))
        row = torch.zeros(1, len(self.parts)).to(self.base)
        row[0, at] = 1
        if (at < 0).any() or ((row[0] > 0) & ~self.own & (self.at < 0)).any():
            raise Refused(
                f"{name!r} has a part that no training cell carries, and that is no gene of the sequence and has no "
                "descriptor: give descriptors with a row for it"
            )
        return row


def _standardised(descriptors: pd.DataFrame, names: pd.Index, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `names` in units of the spread of those of the first `n`, 0 where there is none; and which have one."""
    if not descriptors.index.is_unique:
        raise Refused("descriptors are one row a perturbation; drop rows that occur twice")
    table = descriptors.set_axis(descriptors.index.astype(str)).reindex(names).to_numpy(float)
    there = np.isfinite(table).all(1)
    if not there[:n].any():
        raise Refused(f"no perturbation in training has a row of finite descriptors (the first is {names[0]!r})")
    seen = table[:n][there[:n]]
    spread = np.where(seen.std(0) > 0, seen.std(0), 1)
    return np.where(there[:, None], (table - seen.mean(0)) / spread, 0), there


def _say(good: np.ndarray, names: list, what: str, then: str) -> None:
    if not good.all():
        print(f"{(~good).sum()} of {len(names)} perturbations {what} (first: {names[np.argmin(good)]}): {then}")
