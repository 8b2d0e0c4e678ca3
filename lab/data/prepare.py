"""From raw counts to what a model reads: quality control, normalisation, highly variable genes; and binomial
thinning.
"""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from scipy import sparse

from lab.errors import Refused

from .counts import count_totals, in_csr


def prepare(
    adata: ad.AnnData,
    n_genes: int = 2000,
    *,
    layer: str = "counts",
    min_genes: int = 200,
    max_mito: float = 0.2,
    min_cells: int = 3,
    genes: Sequence[str] | None = None,
) -> ad.AnnData:
    """A copy of `adata` ready for a model: poor cells and rare genes dropped,
    log-normalised, cut to its `n_genes` most variable genes.

    In order: (1) per cell, `n_counts`, `n_genes` and `percent_mito` (a fraction, from
    genes named MT-…) enter `obs`; columns of these names that were there stay, since
    they may know genes that the matrix lost. (2) Cells with fewer than `min_genes`
    genes or more than `max_mito` mitochondrial counts are dropped. (3) Genes seen in
    fewer than `min_cells` cells are dropped. (4) `X` becomes log1p of counts per
    10,000, by `n_counts`. (5) The genes whose Pearson residuals under a negative
    binomial null vary most are kept (Lause, Berens and Kobak 2021): computed on
    counts, and without the scikit-misc that scanpy's `seurat_v3` needs.

    Pass `genes=train.var_names` to bring held-out cells to the genes that the
    training cells chose. `uns["prepare"]` keeps the record.
    """
    totals = count_totals(adata, layer)
    counts = in_csr(adata.X if layer == "X" else adata.layers[layer], np.int32)
    cells = ad.AnnData(
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        layers={"counts": counts},
    )
    _per_cell(cells, totals)
    good = (cells.obs["n_genes"] >= min_genes) & (totals > 0) & (cells.obs["percent_mito"] <= max_mito)
    common = counts[good.to_numpy()].getnnz(axis=0) >= min_cells
    if genes is not None:
        if missing := sorted(set(genes) - set(cells.var_names)):
            raise Refused(
                f"{len(missing)} of the {len(genes)} genes asked are absent "
                f"(first: {missing[0]!r}); use the same annotation"
            )
        common[:] = True
    if not good.any() or not common.any():
        raise Refused(
            f"no {'cell' if not good.any() else 'gene'} passes min_genes="
            f"{min_genes}, max_mito={max_mito}, min_cells={min_cells}; "
            "loosen them"
        )
    cells = cells[good.to_numpy(), common].copy()
    cells.X = log_normalise(cells.layers["counts"], cells.obs["n_counts"])
    if genes is None and n_genes < cells.n_vars:
        threads = torch.get_num_threads()
        ranked = sc.experimental.pp.highly_variable_genes(
            cells, n_top_genes=n_genes, layer="counts", check_values=False, inplace=False
        )
        torch.set_num_threads(threads)  # numba, starting, gives torch as many as the machine has
        genes = cells.var_names[ranked["highly_variable"]]
    cells = cells if genes is None else cells[:, list(genes)].copy()
    cells.uns["prepare"] = {
        "cells": [adata.n_obs, cells.n_obs],
        "genes": [adata.n_vars, int(common.sum()), cells.n_vars],
        "min_genes": min_genes,
        "max_mito": max_mito,
        "min_cells": min_cells,
    }
    return cells


def log_normalise(counts, total) -> sparse.csr_matrix:
    """log(1 + 10,000 counts / total), CSR float32: `counts` (B, G), `total` (B,) UMIs of each cell; a cell without
    counts stays 0.
    """
    total = np.asarray(total, np.float64)
    per_cell = np.divide(1e4, total, out=np.zeros_like(total), where=total > 0)
    return (sparse.diags(per_cell) @ in_csr(counts, np.float64)).log1p().tocsr().astype(np.float32)


def thin(adata: ad.AnnData, fraction: float, seed: int = 0) -> ad.AnnData:
    """The same cells sequenced less deeply: every UMI of `layers["counts"]` is kept with probability `fraction`.

    Poisson counts stay Poisson with mean `fraction` * mean, and are independent of what was removed; negative binomial
    counts stay negative binomial with the same theta. `obs["n_counts"]`, where present, is thinned with them (also its
    part outside these genes), `X` is normalised anew, and what thinning makes untrue, `raw` and the columns `n_genes`
    and `percent_mito`, is dropped.
    """
    if not 0 < fraction <= 1:
        raise Refused(f"fraction={fraction}: it is the probability of keeping a UMI, between 0 (excluded) and 1")
    before, random = count_totals(adata, "counts"), np.random.default_rng(seed)
    counts = in_csr(adata.layers["counts"], np.int32).copy()
    counts.data = random.binomial(counts.data, fraction).astype(np.int32)
    counts.eliminate_zeros()
    thinned = adata.to_memory(copy=True)
    thinned.raw = None
    thinned.layers["counts"] = counts
    total = np.asarray(counts.sum(axis=1)).ravel().astype(float)
    if "n_counts" in adata.obs:
        outside = np.maximum(np.round(_measured(adata, "n_counts") - before), 0).astype(np.int64)
        total += random.binomial(outside, fraction)
        thinned.obs["n_counts"] = total
    thinned.obs = thinned.obs.drop(columns=[name for name in ("n_genes", "percent_mito") if name in thinned.obs])
    thinned.X = log_normalise(counts, total)
    return thinned


def _per_cell(cells: ad.AnnData, totals: np.ndarray) -> None:
    mito = cells.var_names.str.upper().str.startswith("MT-")
    in_mito = np.asarray(cells.layers["counts"][:, mito].sum(axis=1), dtype=float).ravel()
    measured = {
        "n_counts": totals,
        "n_genes": cells.layers["counts"].getnnz(axis=1),
        "percent_mito": np.divide(in_mito, totals, out=np.zeros_like(totals), where=totals > 0),
    }
    for name, values in measured.items():
        if name in cells.obs:
            _measured(cells, name)
        else:
            cells.obs[name] = values


def _measured(adata: ad.AnnData, name: str) -> np.ndarray:
    """A column of totals or fractions (B,) that came with the cells; `Refused` where it is not numbers from 0 up."""
    numeric = pd.api.types.is_numeric_dtype(adata.obs[name])
    values = adata.obs[name].to_numpy(float, na_value=np.nan) if numeric else np.full(adata.n_obs, np.nan)
    if (bad := ~(np.isfinite(values) & (values >= 0))).any():
        raise Refused(
            f"obs[{name!r}] is missing or no number from 0 up for {bad.sum()} of {len(bad)} cells; fill it in, or "
            f"delete that column, and the matrix's own values are taken"
        )
    return values
