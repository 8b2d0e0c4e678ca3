"""The cells of one run: which are held out, what conditions they have, and the genes that are modelled."""

import hashlib
import json
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset

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
        return Known(self.adata.var_names.tolist(), self.levels, self.trained(shuffle=False))

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


def gather(source: str, options: dict) -> Cells:
    """The cells of `source`, checked, as `options` ask: layer, genes, conditions, size, validation, seed.

    Raises `Refused`, one sentence, for whatever no model could learn from.
    """
    cells, layer = counts_of(open_cells(source), options["layer"])
    held_out = held_out_of(cells.obs_names, options["validation"], options["seed"])
    levels = _levels(cells, options["conditions"], ~held_out)
    cells = _variable(cells, layer, options["genes"], ~held_out)
    everyone = data.loader(cells, *levels, layer=layer, size=options["size"], shuffle=False, categories=levels)
    return Cells(cells, layer, held_out, levels, everyone, options["seed"])


def held_out_of(names: pd.Index, validation: float, seed: int) -> np.ndarray:
    """Which cells are held out (B,), by `data.split` of their names."""
    if not len(names):
        return np.zeros(0, bool)  # the loader says what is wrong
    if (number := round(validation * len(names))) in (0, len(names)):
        purpose = "train on" if number else "hold out"
        raise Refused(
            f"--validation {validation} of {len(names)} cells leaves none to {purpose}; it takes at least "
            "two cells, and a fraction that gives each part one"
        )
    _, test = data.split(ad.AnnData(obs=pd.DataFrame(index=names)), (1 - validation, validation), seed=seed)
    return names.isin(test.obs_names)


def _levels(cells: ad.AnnData, conditions: list[str], train: np.ndarray) -> dict[str, list]:
    """What the codes of each condition mean: the labels that training cells have, in the column's own order."""
    levels = {}
    for name in conditions:
        column = labels(cells, name)
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            raise Refused(
                f"obs[{name!r}] holds numbers, and a condition has labels: make some of a measurement by adata.obs"
                f"[{name!r}] = pandas.cut(adata.obs[{name!r}], 3).astype(str), of codes by adata.obs[{name!r}] = "
                f"adata.obs[{name!r}].astype('category')"
            )
        levels[name] = column[train].astype("category").cat.remove_unused_categories().cat.categories.tolist()
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


def _subset(batches: DataLoader, which: np.ndarray, shuffle: bool, seed: int) -> DataLoader:
    rows = Subset(batches.dataset, np.flatnonzero(which).tolist())
    return DataLoader(
        rows,
        batch_size=batches.batch_size,
        shuffle=shuffle,
        collate_fn=batches.collate_fn,
        generator=torch.Generator().manual_seed(seed),
    )
