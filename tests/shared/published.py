"""A file of scPerturb in miniature: the layout that its own code writes."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def scperturb_file(path, perturbation, nperts, *, dense=False, genes=4, counts=None, **obs):
    """Writes raw counts in X, symbols in var's index, and `obs` with `perturbation`, `nperts`, `ncounts`, ...; returns
    the counts (B, G)."""
    n = len(perturbation)
    counts = np.arange(n * genes).reshape(n, genes) % 7 + 1 if counts is None else counts
    matrix = counts.astype(np.float32) if dense else sparse.csr_matrix(counts.astype(np.float32))
    table = {
        "perturbation": pd.Categorical(perturbation),
        "nperts": nperts,
        "ncounts": counts.sum(1).astype(np.float32),
    }
    names = pd.Index([f"AAAC{'GT'[i % 2]}-1" if i < 2 else f"C{i}" for i in range(n)], name="cell_barcode")
    var = pd.DataFrame({"ncells": (counts > 0).sum(0)}, pd.Index([f"G{i}" for i in range(genes)], name="gene_symbol"))
    ad.AnnData(matrix, obs=pd.DataFrame(table | obs, names), var=var).write_h5ad(path, compression="gzip")
    return counts
