"""The cells of one run: which are held out, what conditions they have, and the genes that are modelled."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, Subset

from lab import data
from lab.data.counts import labels, matrix_of
from lab.errors import Refused

from .cells import counts_of, open_cells, with_genes
from .recipes import Known

CHOOSERS = 10_000  # training cells, at most, that choose the variable genes


@dataclass(frozen=True)
class Cells:
    """Cells with the genes that a run models; `layer` is where their counts are and, in run.json, where they were.

    `held_out` (B,) says which only test it. `levels` are the labels of each condition, in the order of their codes.
    """

    adata: ad.AnnData
    layer: str
    held_out: np.ndarray
    levels: dict[str, list]
    everyone: DataLoader
    seed: int

    def trained(self, shuffle: bool = True) -> DataLoader:
        """Minibatches of the training cells."""
        return _subset(self.everyone, ~self.held_out, shuffle, self.seed)

    @property
    def tested(self) -> DataLoader:
        """Minibatches of the held-out cells, in order."""
        return _subset(self.everyone, self.held_out, False, self.seed)

    @property
    def obs(self) -> pd.DataFrame:
        """The obs of every cell and, in a last column, which are held out: `held_out`, or a name that is free."""
        name = "held_out"
        while name in self.adata.obs:
            name += "_by_lab"
        return self.adata.obs.assign(**{name: self.held_out})

    def known(self) -> Known:
        """What a model of these cells is built from."""
        trained = _subset(self.everyone, ~self.held_out, False, self.seed)
        return Known(self.adata.var_names.tolist(), self.levels, trained)

    def held_out_loss(self, loss: Callable, device: torch.device) -> float:
        """The mean of `loss(b)["loss"]` over held-out cells."""
        tested = [(len(b["x"]), loss(send_to_device(b, device))["loss"].item()) for b in self.tested]
        return sum(size * value for size, value in tested) / sum(size for size, _ in tested)

    def depths(self) -> pd.DataFrame:
        """`log_library` and the codes of the conditions of every training cell."""
        columns = {"log_library": self.everyone.dataset.columns["log_library"][:, 0]} | {
            name: self.everyone.dataset.columns[name] for name in self.levels
        }
        return pd.DataFrame({name: column.numpy()[~self.held_out] for name, column in columns.items()})

    def fingerprint(self) -> str:
        """A digest of the names, the conditions and each cell's depth."""
        digest, batches = hashlib.sha256(), self.everyone.dataset
        for names in (self.adata.obs_names, self.adata.var_names):
            digest.update("\n".join(map(str, names)).encode())
        for name, of in batches.categories.items():
            digest.update(json.dumps([name, of]).encode())
        for column in batches.columns.values():  # the conditions, then log_library
            digest.update(column.numpy().tobytes())
        return digest.hexdigest()


def gather(
    source: str,
    options: dict,
    columns: Callable | None = None,
    *,
    by: str | None = None,
    called: str = "tracks",
    never: str | None = None,
) -> Cells:
    """The cells of `source`, checked, as `options` ask: layer, genes, conditions, size, validation, seed; `columns` is
    the recipe's. Those with the same label in the obs column `by`, the rows of a track, are held out together, in
    errors under the name `called`. With `never`, a label that is none of those held out, the others may be conditions,
    of which nothing is learned.

    Raises `Refused`, one sentence, for whatever no model could learn from.
    """
    cells, layer = counts_of(open_cells(source), options["layer"])
    names = cells.obs_names if by is None else pd.Index(labels(cells, by).astype(str))
    asked = columns(cells, options) if columns else (dict.fromkeys(options["conditions"]), [])
    what = "cells" if by is None else called
    held_out = held_out_of(names, options["validation"], options["seed"], what, never)
    levels = _levels(cells, asked[0], ~held_out if never is None else np.ones(len(names), bool))
    cells = _variable(cells, layer, options["genes"], ~held_out)
    how = {"layer": layer, "size": options["size"], "categories": levels}
    everyone = data.loader(cells, *levels, *asked[1], shuffle=False, **how)
    return Cells(cells, layer, held_out, levels, everyone, options["seed"])


def held_out_of(
    names: pd.Index, validation: float, seed: int, what: str = "cells", never: str | None = None
) -> np.ndarray:
    """Which cells are held out (B,), by `data.split` of their names, or of labels that several share, never `never`."""
    if not len(names):
        return np.zeros(0, bool)  # the loader says what is wrong
    of = names.unique().drop(never, errors="ignore")
    if (number := round(validation * len(of))) in (0, len(of)):
        purpose = "train on" if number else "hold out"
        raise Refused(
            f"--validation {validation} of {len(of)} {what} leaves none to {purpose}; it takes at least "
            f"two {what}, and a fraction that gives each part one"
        )
    _, test = data.split(ad.AnnData(obs=pd.DataFrame(index=of)), (1 - validation, validation), seed=seed)
    return names.isin(test.obs_names)


def _levels(cells: ad.AnnData, conditions: dict[str, str | None], train: np.ndarray) -> dict[str, list]:
    """What the codes of each condition mean: the labels that training cells have, in the column's own order or, where
    one is to be the first, by name after it."""
    levels = {}
    for name, first in conditions.items():
        column = labels(cells, name)
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            raise Refused(
                f"obs[{name!r}] holds numbers, and a condition has labels: make some of a measurement by adata.obs"
                f"[{name!r}] = pandas.cut(adata.obs[{name!r}], 3).astype(str), of codes by adata.obs[{name!r}] = "
                f"adata.obs[{name!r}].astype('category')"
            )
        levels[name] = column[train].astype("category").cat.remove_unused_categories().cat.categories.tolist()
        if first is not None:
            levels[name].sort(key=lambda label: (str(label) != first, str(label)))  # noqa: B023
        if unseen := sorted(set(column.unique()) - set(levels[name]), key=str):
            raise Refused(
                f"all {(column == unseen[0]).sum()} cells with obs[{name!r}] = {unseen[0]!r} are held out, "
                "so that nothing could be learned of them; remove them, merge labels, or give another "
                "--seed"
            )
        if len(levels[name]) == 1:
            raise Refused(
                f"obs[{name!r}] is {levels[name][0]!r} in every cell, and a condition has two labels or "
                "more; leave it out"
            )
    return levels


def _variable(cells: ad.AnnData, layer: str, genes: int | str | None, train: np.ndarray) -> ad.AnnData:
    """The cells with the most variable genes alone, in memory as CSR; or unchanged, perhaps on disk, for all genes."""
    if isinstance(genes, int) and genes > cells.n_vars:
        raise Refused(f"--genes {genes}, but there are {cells.n_vars}; ask for fewer, or --genes all")
    wanted = cells.n_vars if genes == "all" else genes or 2000
    if wanted >= cells.n_vars:
        return cells
    data.check_counts(cells, layer)
    rows = np.flatnonzero(train)
    rows = np.sort(np.random.default_rng(0).choice(rows, CHOOSERS, replace=False)) if len(rows) > CHOOSERS else rows
    some = ad.AnnData(layers={"counts": matrix_of(cells, layer)[rows]}, var=cells.var[[]])
    variable = data.prepare(some, wanted, min_genes=0, max_mito=1, min_cells=1).var_names
    chosen = with_genes(cells, layer, cells.var_names[cells.var_names.isin(variable)])
    if (empty := np.asarray(matrix_of(chosen, layer).sum(1)).ravel() == 0).any():
        raise Refused(
            f"{empty.sum()} of {cells.n_obs} cells have no count among the {chosen.n_vars} most variable "
            f"genes (first: {cells.obs_names[empty][0]!r}); ask for more --genes, or all, or remove them"
        )
    return chosen


def served(some: Dataset, batches: DataLoader, shuffle: bool, seed: int) -> DataLoader:
    """Minibatches of `some` as `batches` serves its own."""
    return DataLoader(
        some,
        batch_size=batches.batch_size,
        shuffle=shuffle,
        collate_fn=batches.collate_fn,
        generator=torch.Generator().manual_seed(seed),
    )


def _subset(batches: DataLoader, which: np.ndarray, shuffle: bool, seed: int) -> DataLoader:
    return served(Subset(batches.dataset, np.flatnonzero(which).tolist()), batches, shuffle, seed)
