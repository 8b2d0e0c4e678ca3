"""What a set must hold: counts that are counts, read once, in chunks, so that likelihoods need not ask again; and the
columns that were named.
"""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.errors import Refused

EXACT = 2**24  # the largest count for which the one below it differs in float32
CHUNK = 1024  # rows read at a time while checking
LOOK = 500  # cells looked at to tell counts from what was made of them


def check_counts(adata: ad.AnnData, layer: str = "counts") -> np.ndarray:
    """Read the whole layer once and return each cell's total (B,), or raise `Refused`: one sentence, cause and
    remedy.

    Refused: no cells, no genes, duplicate gene names, a missing layer, NaN, infinite, negative or fractional values, a
    cell without a single count. `layer="X"` reads X. On-disk matrices are read 1,024 rows at a time.
    """
    totals = count_totals(adata, layer)
    if (totals == 0).any():
        raise Refused(
            f"{(totals == 0).sum()} of {adata.n_obs} cells have no count in these {adata.n_vars} genes "
            f"(first: {adata.obs_names[totals == 0][0]!r}); remove them before training, prepare() does"
        )
    return totals


def count_totals(adata: ad.AnnData, layer: str) -> np.ndarray:
    """As `check_counts`, but a cell may be empty: `prepare` and `thin` meet such cells."""
    matrix = matrix_of(adata, layer)
    try:
        return np.concatenate([_totals(matrix[start : start + CHUNK], layer) for start in range(0, adata.n_obs, CHUNK)])
    except Refused as error:
        raise Refused(f"{error}{_in_raw(adata)}") from None


def matrix_of(adata: ad.AnnData, layer: str):
    """The matrix (B, G) of a layer, or of X for "X", in memory or on disk, once names and shape have been checked."""
    if adata.n_obs == 0:
        raise Refused("the set has no cells: a filter removed them all, or the file is empty; loosen the filter")
    if adata.n_vars == 0:
        raise Refused("the set has no genes: the gene filter matched none; check its names against adata.var_names")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise Refused(f"gene name {twice!r} occurs more than once; call adata.var_names_make_unique() first")
    if layer != "X" and layer not in adata.layers:
        raise Refused(
            f"there is no layer {layer!r} (layers: {', '.join(adata.layers) or 'none'}); put raw counts "
            f'there, or, where X holds them, pass layer="X"{_in_raw(adata)}'
        )
    matrix = adata.X if layer == "X" else adata.layers[layer]
    if matrix is None:
        raise Refused('X is empty; name the layer to read, for example layer="counts"')
    if np.dtype(matrix.dtype).kind not in "buif":
        raise Refused(
            f"{layer!r} holds values of type {matrix.dtype}, not numbers that a model can read; store "
            "integers or floats"
        )
    if by_gene(matrix):
        raise Refused(
            f"{layer!r} is stored by gene (CSC) on disk, so that one cell means reading the file; read it without "
            "on_disk, or write it anew after .tocsr()"
        )
    return matrix


def column(adata: ad.AnnData, name: str) -> pd.Series:
    """The obs column `name` (B,), or `Refused`, which names those that are there."""
    if name not in adata.obs:
        raise Refused(f"obs has no column {name!r}; it has: {', '.join(map(str, adata.obs.columns)) or 'none'}")
    return adata.obs[name]


def labels(adata: ad.AnnData, name: str) -> pd.Series:
    """The obs column `name` (B,), or `Refused` where a cell has no value in it."""
    values = column(adata, name)
    if values.isna().any():
        raise Refused(
            f"obs[{name!r}] is missing for {values.isna().sum()} of {len(values)} cells; label or remove them"
        )
    return values


def in_csr(matrix, dtype) -> sparse.csr_matrix:
    """A matrix (B, G), dense or sparse, in memory or on disk, as CSR in memory that stores no zero and no entry twice.
    It may share its values with `matrix`: copy it before writing to it.
    """
    if not sparse.issparse(matrix):
        matrix = matrix[:]  # from the disk
        matrix = matrix if sparse.issparse(matrix) else np.asarray(matrix, dtype)  # scipy knows no float16
    matrix = sparse.csr_matrix(matrix, dtype=dtype)
    if not matrix.has_canonical_format or (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    return matrix


def check_finite(matrix, n: int) -> None:
    """Raise `Refused` where one of the `n` rows holds NaN or an infinity."""
    for start in range(0, n, CHUNK):
        if not np.isfinite(_values(matrix[start : start + CHUNK])).all():
            raise Refused("X holds NaN or infinite values; drop or impute them before training")


def whole(matrix, n: int) -> bool:
    """Whether what can be seen of `n` cells is integers from 0 up: the one rule by which counts are found in `raw`
    or X."""
    if np.dtype(matrix.dtype).kind not in "buif":
        return False
    values = _values(matrix[:, :20] if by_gene(matrix) else matrix[some(n)])
    return bool(((values >= 0) & (values == np.round(values)) & np.isfinite(values)).all())


def some(n: int) -> np.ndarray:
    """Rows, evenly spaced, that tell integers from fractions and one matrix from another."""
    return np.unique(np.linspace(0, n - 1, min(n, LOOK)).astype(int))


def by_gene(matrix) -> bool:
    """Stored by gene (CSC) on disk, so that one cell means reading the file."""
    return getattr(matrix, "format", "csr") == "csc" and not sparse.issparse(matrix)


def _in_raw(adata: ad.AnnData) -> str:
    """What to add to a refusal where `raw` holds the counts that were asked for."""
    there = adata.raw is not None and whole(adata.raw.X, adata.n_obs)
    return "; adata.raw holds whole numbers: take adata.raw.to_adata(), and its X" if there else ""


def _values(rows) -> np.ndarray:
    return rows.data if sparse.issparse(rows) else np.asarray(rows).ravel()


def _totals(rows, layer: str) -> np.ndarray:
    values = _values(rows)
    if not np.isfinite(values).all():
        raise Refused(f"{layer!r} holds NaN or infinite values, so it is not counts; go back to the raw matrix")
    if (values < 0).any():
        raise Refused(
            f"{layer!r} holds negative values ({values.min():.3g}), so it was scaled or batch-corrected; use raw counts"
        )
    if (values != np.round(values)).any():
        odd = values[values != np.round(values)][0]
        kind = "looks log-normalised" if values.max() < 20 else "was normalised, or is an estimate"
        raise Refused(f"{layer!r} holds fractions (such as {odd:.4g}): it {kind}; use raw integer counts")
    if values.dtype == np.float16 and values.max(initial=0) > 2**11:
        raise Refused(
            f"{layer!r} holds {values.max():.5g} in float16, which above 2,048 rounds to even numbers: the counts are "
            "no longer what was measured; go back to the raw matrix, in int32 or float32"
        )
    if float(values.max(initial=0)) > EXACT:
        raise Refused(
            f"{layer!r} holds a count of {values.max():.3g}, more than the {EXACT:,} up to which float32 "
            "is exact: is it an intensity, or a column of totals?"
        )
    return np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()
