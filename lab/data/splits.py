"""Training and held-out cells: splits by cell, by category and by group, and the guards that catch what leaks."""

import hashlib
from collections.abc import Sequence
from copy import copy

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.errors import Refused

from .counts import labels


def split(
    adata: ad.AnnData,
    fractions: Sequence[float] = (0.8, 0.2),
    *,
    by: str | None = None,
    test: str | Sequence[str] | None = None,
    stratify: str | None = None,
    seed: int = 0,
) -> tuple[ad.AnnData, ...]:
    """Copies of disjoint parts of the cells, one per fraction, in the order of `fractions` (train first); their sizes
    add up to all cells.

    `by`: whole groups (donors, batches, perturbations) go to one part, in sizes as near to `fractions` as groups allow.
    `by` with `test`, a group or several: (train, test), where test has exactly those. `stratify`: each category of that
    column is divided in these proportions. Every part keeps all categories of the categorical columns, so that codes
    and colours mean the same in each.
    """
    random = np.random.default_rng(seed)
    for name in filter(None, (by, stratify)):
        labels(adata, name)
    if by is not None and stratify is not None:
        raise Refused(
            "choose `by` (whole groups) or `stratify` (equal shares of each category): a group cannot be divided"
        )
    if test is not None:
        test = list(test) if pd.api.types.is_list_like(test) else [test]
        if by is None or (absent := [group for group in test if not (adata.obs[by] == group).any()]):
            raise Refused(
                f"test={test}: " + ("name the column with by=" if by is None else f"no cell has {by} {absent[0]!r}")
            )
        part = adata.obs[by].isin(test).to_numpy().astype(int)
        n_parts = 2
    else:
        share = np.asarray(fractions, float)
        if (share <= 0).any() or abs(share.sum() - 1) > 1e-9:
            raise Refused(f"fractions={tuple(fractions)} must be positive and sum to 1")
        n_parts = len(share)
        if by is not None:
            part = _by_group(adata.obs[by].astype(str).to_numpy(), share, random)
        else:
            strata = adata.obs[stratify].astype(str).to_numpy() if stratify else np.zeros(adata.n_obs)
            part = np.empty(adata.n_obs, int)
            for stratum in np.unique(strata):
                rows = random.permutation(np.flatnonzero(strata == stratum))
                part[rows] = np.searchsorted(
                    np.round(np.cumsum(share) * len(rows)), np.arange(len(rows)), side="right"
                ).clip(max=n_parts - 1)
    if empty := [i for i in range(n_parts) if not (part == i).any()]:
        raise Refused(
            f"part {empty[0]} of the split has no cells: there are too few {'groups' if by else 'cells'} "
            "for these fractions"
        )
    return tuple(_part(adata, part == i) for i in range(n_parts))


def assert_no_leakage(train: ad.AnnData, *held_out: ad.AnnData, by: str | None = None) -> None:
    """Raise `Refused` where a held-out set shares with `train` a cell name, a cell's whole profile
    (`layers["counts"]`, else X), or a group of obs column `by`, or where two held-out sets do. Sharing a profile is
    chance only in sets of very few genes.
    """
    parts = (train, *held_out)
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[:i]):
            where = f"parts {j} and {i}" if j else f"train and held-out set {i}"
            if shared := set(one.obs_names) & set(other.obs_names):
                raise Refused(
                    f"{where} share {len(shared)} cells (first: {sorted(shared)[0]!r}); split again by disjoint rows"
                )
            if by is not None and (shared := set(labels(one, by)) & set(labels(other, by))):
                raise Refused(
                    f"{where} share {len(shared)} values of {by!r} (first: "
                    f"{sorted(shared, key=str)[0]!r}); split(..., by={by!r}) keeps groups whole"
                )
            if shared := _profiles(one) & _profiles(other):
                raise Refused(
                    f"{where} hold {len(shared)} identical cells under different names; drop duplicates "
                    "before splitting"
                )


def assert_known_categories(train: ad.AnnData, held_out: ad.AnnData, by: str) -> None:
    """Raise `Refused` where `held_out` has a value of obs column `by` that no training cell has: a model has no code
    for it.
    """
    if unseen := sorted(set(labels(held_out, by)) - set(labels(train, by)), key=str):
        raise Refused(
            f"{by} {unseen[0]!r} occurs only among held-out cells, so no model can have learned it; "
            f"split(..., stratify={by!r})"
        )


def _by_group(groups: np.ndarray, share: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Groups in random order, each to the part that is furthest below its share."""
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < len(share):
        raise Refused(f"{len(names)} groups cannot fill {len(share)} parts; use fewer fractions or another column")
    home, filled = np.zeros(len(names), int), np.zeros(len(share))
    for group in random.permutation(len(names)):
        home[group] = np.argmin((filled - share * len(groups)) / share)
        filled[home[group]] += sizes[group]
    return home[index]


def _part(adata: ad.AnnData, rows: np.ndarray) -> ad.AnnData:
    part = adata[rows].copy()
    for name, values in adata.obs.items():
        if hasattr(values, "cat"):  # anndata drops categories without cells; codes would then differ between parts
            part.obs[name] = part.obs[name].cat.set_categories(values.cat.categories)
            if (colors := f"{name}_colors") in adata.uns:
                part.uns[colors] = copy(adata.uns[colors])
    return part


def _profiles(adata: ad.AnnData) -> set[bytes]:
    matrix = adata.layers["counts"] if "counts" in adata.layers else adata.X
    dense = (
        row.toarray() if sparse.issparse(row) else np.asarray(row)
        for row in (matrix[i : i + 1] for i in range(adata.n_obs))
    )
    return {hashlib.sha1(np.ascontiguousarray(row, np.float32).tobytes()).digest() for row in dense}
