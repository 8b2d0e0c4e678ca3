"""Latent arithmetic (scGen; Lotfollahi, Wolf & Theis 2019): a perturbation is one vector, added to the code of every
cell."""

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.baselines.perturb import parts
from lab.data import minibatch
from lab.data.counts import labels
from lab.errors import Refused
from lab.nets import Coordinates, Minibatch
from lab.vae import VAE

from .design import Design


class LatentArithmetic:
    """Shifts of mean codes in a `space`: a trained count VAE, or, the ablation, `Coordinates`, principal components or
    the genes themselves, in which the same arithmetic is linear.

    The shift of a label is the difference between the mean codes of its cells and of controls, taken within each level
    of `obs[group]` that has both and averaged with equal weights; without `group`, over all cells. `shifts` is the
    table, labels x D. A combination that no training cell has is the sum of its parts. scGen instead repeats the cells
    of rarer types until all are as many, on each side by itself, so that a type of which only controls are known moves
    the shift; its autoencoder has a Gaussian likelihood, and it decodes means.
    """

    def __init__(
        self,
        space: VAE | Coordinates,
        cells: ad.AnnData,
        *,
        by: str = "perturbation",
        control: str = "control",
        group: str | None = None,
        separator: str = "+",
    ):
        if isinstance(space, VAE) and space.levels:
            raise Refused(
                f"this VAE was told {', '.join(sorted(space.levels))} and need not encode it, so that a shift of codes "
                "is not all that changes; train one without conditions"
            )
        self.space, self.design = space, Design(cells, by=by, control=control, separator=separator)
        if isinstance(space, VAE) and space.n_genes not in (None, cells.n_vars):
            raise Refused(f"the VAE was made for {space.n_genes} genes, and the cells have {cells.n_vars}")
        of = labels(cells, by).astype(str).to_numpy()
        kind = np.zeros(len(of)) if group is None else labels(cells, group).astype(str).to_numpy()
        self.shifts = shifts(self.codes(minibatch(cells)).numpy(), of, kind, self.design)

    @classmethod
    def of(cls, space: VAE | Coordinates, design: Design, table: pd.DataFrame) -> "LatentArithmetic":
        """The same of `shifts` that are known, labels x D."""
        made = cls.__new__(cls)
        made.space, made.design, made.shifts = space, design, table
        return made

    @torch.no_grad()
    def codes(self, b: Minibatch) -> Tensor:
        """Where cells lie, (B, D): means of their posteriors, or coordinates."""
        return self.space.posterior(b["x"], b).mean if isinstance(self.space, VAE) else self.space(b["x"])

    def shift(self, name: str) -> Tensor:
        """The vector (D,) of a perturbation; of a combination without cells, the sum of its parts'."""
        own = {parts(label, self.design.separator): label for label in self.shifts.index}
        if (of := parts(name, self.design.separator)) in own:
            return torch.tensor(self.shifts.loc[own[of]].to_numpy(np.float32))
        self.design.row(name)  # names a part that is unknown
        if alone := [part for part in of if (part,) not in own and name != self.design.control]:
            raise Refused(f"{alone[0]!r} occurs in training only together with others, and has no shift of its own")
        singles = [self.shifts.loc[part].to_numpy(np.float32) for part in of if part in self.shifts.index]
        return torch.tensor(np.sum(singles, 0) if singles else np.zeros(self.shifts.shape[1], np.float32))

    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """Control cells under a perturbation. A VAE's code is drawn from the cell's posterior, moved and decoded."""
        shift = self.shift(name)

        def draw(b: Minibatch) -> Tensor:
            if isinstance(self.space, VAE):
                return self.space.likelihood(self.space.posterior(b["x"], b).sample() + shift, b).sample()
            return self.space.draw(self.space(b["x"]) + shift, b["log_library"])

        return self.design.predicted(control, name, draw, seed=seed)


def shifts(codes: np.ndarray, of: np.ndarray, kind: np.ndarray, design: Design) -> pd.DataFrame:
    """Labels x D, of codes (B, D) of cells with labels `of` and groups `kind`, both (B,); `Refused` for a label that
    shares no group with the control."""
    mean = pd.DataFrame(codes).groupby([of, kind]).mean()
    return pd.DataFrame({name: _shift(mean, name, design.control) for name in design.labels[1:]}).T


def _shift(mean: pd.DataFrame, name: str, control: str) -> np.ndarray:
    """The mean over kinds that have both, of mean codes by (label, kind)."""
    apart = (mean.loc[name] - mean.loc[control]).dropna()
    if not len(apart):
        raise Refused(f"no group has both cells of {name!r} and of {control!r}; leave group out, or that label")
    return apart.mean(0).to_numpy()
