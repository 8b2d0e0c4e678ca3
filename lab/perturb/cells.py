"""Predicted, true, control and training cells brought to one scale, log1p of counts per 10,000, or refused."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.data.counts import check_counts, check_finite, in_csr, labels, matrix_of, whole
from lab.data.prepare import log_normalise
from lab.errors import Refused

TOTAL = 1e4  # what exp(x) - 1 of a log-normalised cell adds up to over all genes
APART = 3  # a prediction whose totals are so many times those of controls is on another scale


@dataclass(frozen=True)
class Cells:
    """Expression `x` (B, G), CSR or dense; the perturbation `of` each and its `replicate` (B,); names of the cells."""

    x: sparse.csr_matrix | np.ndarray
    of: np.ndarray | None
    replicate: np.ndarray | None
    names: pd.Index

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, rows):
        some = (values if values is None else values[rows] for values in (self.of, self.replicate))
        return Cells(self.x[rows], *some, self.names[rows])

    def mean(self) -> np.ndarray:
        """(G,)"""
        return np.asarray(self.x.mean(axis=0), float).ravel()


def joined(one: Cells, other: Cells) -> Cells:
    """Both, one after the other; without perturbations."""
    x = one.x, other.x
    x = sparse.vstack(x, format="csr") if all(map(sparse.issparse, x)) else np.concatenate([*map(dense, x)])
    both = None if one.replicate is None else np.concatenate([one.replicate, other.replicate])
    return Cells(x, None, both, one.names.append(other.names))


def dense(x) -> np.ndarray:
    """Expression (B, G) as an array in single precision."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float32)


def gathered(sets: dict[str, ad.AnnData], by: str, layer: str, replicate: str | None) -> tuple[dict, pd.Index]:
    """Each of the sets as `Cells` with the genes of "truth", and these.

    Counts are `layers[layer]`, else an X of integers; they are normalised by `obs["n_counts"]`, the cell's full total,
    where all sets of counts have it, else by their own sums. Other sets must already be log1p of counts per 10,000,
    unless none holds counts: then all are taken as they stand.
    """
    genes = sets["truth"].var_names
    place = {name: layer if layer in a.layers else "X" for name, a in sets.items()}
    matrices = {name: matrix_of(a, place[name]) for name, a in sets.items()}
    for name, a in sets.items():
        if a.n_vars != len(genes) or not a.var_names.isin(genes).all():
            lacking = next((gene for gene in genes if gene not in set(a.var_names)), None)
            said = f"{lacking!r} is missing" if lacking else f"{a.n_vars} and {len(genes)}"
            raise Refused(f"{name} and truth have other genes ({said}); take the genes that both have from each")
    counted = [name for name, m in matrices.items() if place[name] == layer or whole(m, sets[name].n_obs)]
    full = all("n_counts" in sets[name].obs for name in counted)
    cells = {}
    for name, a in sets.items():
        if name in counted:
            sums = check_counts(a, place[name])
            x = log_normalise(matrices[name], a.obs["n_counts"] if full else sums)
        else:
            check_finite(matrices[name], a.n_obs)
            x = matrices[name]
            x = in_csr(x, np.float32) if sparse.issparse(x) or not isinstance(x, np.ndarray) else x.astype(np.float32)
            _check_rows(x, name, bool(counted))
        x = x if a.var_names.equals(genes) else x[:, a.var_names.get_indexer(genes)]
        with_labels = by in a.obs or name in ("predicted", "truth", "train")
        cells[name] = Cells(
            x,
            labels(a, by).astype(str).to_numpy() if with_labels else None,
            None if replicate is None or name == "predicted" else labels(a, replicate).astype(str).to_numpy(),
            a.obs_names,
        )
    one_each = len(set(cells["predicted"].of)) == len(cells["predicted"])
    if "predicted" in counted and one_each:
        raise Refused(
            "predicted holds one row of counts a perturbation, and the log of a mean is not the mean of logs: give "
            "cells, or means of log-normalised values"
        )
    return cells, genes


def check_scale(predicted: np.ndarray, control: np.ndarray) -> str | None:
    """`Refused` where mean profiles (N, G) are not on the scale of control cells' (G,); a note where they are smoother
    than means of cells are."""
    plain, total = predicted.sum(1) / control.sum(), np.expm1(predicted.clip(max=30)).sum(1) / np.expm1(control).sum()
    if not (1 / APART < np.median(plain) < APART and np.quantile(plain, [0, 1]).prod() > 0 and plain.max() < APART**2):
        raise Refused(
            f"predicted expression adds up to {np.median(plain):.3g} times that of control cells (up to "
            f"{plain.max():.3g}): another scale; give counts, or log1p of counts per 10,000 as those are, by "
            "obs['n_counts'] where they have it"
        )
    if np.median(total) > 1.5:
        return (
            f"predicted means, back from the logarithm, add up to {np.median(total):.2g} times those of control cells: "
            "another logarithm, or logs of means rather than means of logs? draw counts from the model"
        )
    return None


def _check_rows(x, name: str, beside_counts: bool) -> None:
    """Refuse rows of whole numbers among fractions and, where other sets are counts, what is no log1p of CP10k."""
    rows = sparse.csr_matrix(x)
    odd = rows.copy()
    odd.data = (rows.data != np.round(rows.data)).astype(np.float32)
    fractions, filled = np.asarray(odd.sum(1)).ravel(), rows.getnnz(axis=1)
    if (mixed := (fractions == 0) & (filled > 0)).any():
        raise Refused(
            f"{mixed.sum()} of {len(mixed)} rows of {name} hold whole numbers and the others fractions: two scales in "
            "one matrix; bring all rows to one"
        )
    if beside_counts:
        rows.data = np.expm1(rows.data.astype(float).clip(max=30))
        totals = np.asarray(rows.sum(1)).ravel()
        if (far := totals > APART * TOTAL).any():
            raise Refused(
                f"{far.sum()} of {len(far)} rows of {name} are no log1p of counts per 10,000, which others are brought "
                f"to: back from the logarithm one adds up to {totals.max():.3g}; give counts in a layer, or that scale"
            )
