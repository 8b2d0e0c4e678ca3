"""A file of scPerturb in miniature: the layout that its own code writes."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def scperturb_file(path, perturbation, nperts, *, dense=False, counts=None, names=None, symbols=None, **obs):
    """Writes raw counts in X, symbols in var's index, and `obs` with `perturbation`, `nperts`, `ncounts`, ...; returns
    the counts (B, G)."""
    n, genes = len(perturbation), 4
    counts = np.arange(n * genes).reshape(n, genes) % 7 + 1 if counts is None else counts
    matrix = counts.astype(np.float32) if dense else sparse.csr_matrix(counts.astype(np.float32))
    table = {"perturbation": pd.Categorical(perturbation), "nperts": nperts, "ncounts": counts.sum(1).astype("f4")}
    index = pd.Index(names or [f"C{i}" for i in range(n)], name="cell_barcode")
    var = pd.DataFrame({"ncells": (counts > 0).sum(0)}, pd.Index(list(symbols or "GHIJ"), name="gene_symbol"))
    ad.AnnData(matrix, obs=pd.DataFrame(table | obs, index), var=var).write_h5ad(path, compression="gzip")
    return counts
