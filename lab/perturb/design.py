"""What every method shares: labels as sums of their parts, minibatches of training cells, and predicted cells."""

from collections.abc import Callable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lab.baselines.perturb import parts
from lab.data import loader
from lab.data.counts import labels
from lab.errors import Refused
from lab.nets import Minibatch

KEPT = ("cell_type", "batch", "n_counts")  # what of a control cell is still true of it, perturbed


class Design(nn.Module):
    """What the perturbations of training `cells` are made of. `labels` stand in the order of their codes, the control's
    first; `parts` are the single perturbations that occur, alone or in combinations; `table` (labels, parts) is 1 where
    a label has a part, so that A+B is the sum of A and B. With `dose`, a column of numbers, that is what it is times
    the cell's dose.

    `cells` are controls and perturbed cells that a model may learn from: `hold_out`'s first part and controls A. Raises
    `Refused` where either is missing.
    """

    def __init__(
        self,
        cells: ad.AnnData,
        *,
        by: str = "perturbation",
        control: str = "control",
        dose: str | None = None,
        separator: str = "+",
    ):
        super().__init__()
        names = sorted(labels(cells, by).astype(str).unique())
        if control not in names or len(names) < 2:
            raise Refused(
                f"obs[{by!r}] of training cells holds {', '.join(names[:5])}: a model learns from cells labelled "
                f"{control!r} and from perturbed ones; join them, ad.concat([control, train]), or name the control"
            )
        self.by, self.control, self.dose, self.separator, self.genes = by, control, dose, separator, cells.var_names
        self.labels = [control, *(name for name in names if name != control)]
        self.parts = sorted({part for name in self.labels[1:] for part in parts(name, separator)})
        table = [[float(part in parts(name, separator)) for part in self.parts] for name in self.labels]
        self.register_buffer("table", torch.tensor(table))

    def forward(self, b: Minibatch) -> Tensor:
        """How much of each part (B, P) the cells of a minibatch carry; 0 in controls."""
        weights = self.table[b[self.by]]
        return weights if self.dose is None else weights * b[self.dose][:, None]

    def row(self, name: str, dose: float = 1.0) -> Tensor:
        """The same of one label, (P,), which may be a combination that no training cell has; `Refused` for a part that
        none has."""
        if name == self.control:
            return torch.zeros_like(self.table[0])
        of = parts(name, self.separator)
        if unknown := [part for part in of if part not in self.parts]:
            raise Refused(
                f"no training cell carries {unknown[0]!r}, so this model has nothing to say of {name!r}; it knows "
                f"{', '.join(self.parts[:5])}{' and others' * (len(self.parts) > 5)}"
            )
        if not np.isfinite(dose) or dose < 0:
            raise Refused(f"dose={dose}: it is a finite number from 0 up, in the unit of training")
        return dose * torch.tensor([float(part in of) for part in self.parts]).to(self.table)

    def loader(self, cells: ad.AnnData, *, size: int = 128, shuffle: bool = True, seed: int = 0) -> DataLoader:
        """Minibatches of cells with these labels, in these codes, with doses and full totals where there are any."""
        if self.dose is not None and not pd.api.types.is_numeric_dtype(labels(cells, self.dose)):
            raise Refused(f"obs[{self.dose!r}] holds no numbers; store doses as floats, of controls too")
        columns = [self.by, *([self.dose] if self.dose else []), *(["n_counts"] if "n_counts" in cells.obs else [])]
        cells = cells.copy()
        cells.obs[self.by] = labels(cells, self.by).astype(str)
        return loader(cells, *columns, size=size, shuffle=shuffle, seed=seed, categories={self.by: self.labels})

    def check_genes(self, control: ad.AnnData) -> None:
        """Raise `Refused` unless `control` has the genes of training, in their order."""
        if not control.var_names.equals(self.genes):
            raise Refused(
                f"control has {control.n_vars} genes that are not the {len(self.genes)} of training, in their order; "
                "take control[:, genes]"
            )

    @torch.no_grad()
    def predicted(self, control: ad.AnnData, name: str, draw: Callable[[Minibatch], Tensor], *, seed: int):
        """`control` cells as `draw(b)` has them under the perturbation `name`, counts (B, G) of a minibatch: AnnData
        with these in `layers["counts"]`, as deep as they were. Of obs, type, batch and full total are kept."""
        self.check_genes(control)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            batches = loader(control, size=256, shuffle=False)
            counts = [draw({k: v.to(self.table.device) for k, v in b.items()}).cpu() for b in batches]
        counts = sparse.csr_matrix(torch.cat(counts).numpy().astype(np.int32))
        return cells_of(control, name, self.by, layers={"counts": counts})


def cells_of(control: ad.AnnData, name: str, by: str, *, X=None, layers=None) -> ad.AnnData:
    """AnnData of what `control` cells became under `name`: log expression `X`, or `layers`."""
    obs = control.obs[[column for column in KEPT if column in control.obs]].copy()
    obs[by] = name
    obs.index = [f"{name} of {cell}" for cell in control.obs_names]
    return ad.AnnData(X, obs=obs, var=control.var[[]].copy(), layers=layers)


def predict(model, control: ad.AnnData, names: Sequence[str], *, seed: int = 0) -> ad.AnnData:
    """What `evaluate` judges: `model.predict` of each of `names`, each with its own draws, in one AnnData."""
    if isinstance(names, str) or not len(names):
        raise Refused(f"names={names!r}: a list of the perturbations to predict, such as ['A', 'A+B']")
    return ad.concat([model.predict(control, name, seed=seed + i) for i, name in enumerate(names)], merge="same")
