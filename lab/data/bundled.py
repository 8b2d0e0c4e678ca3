"""Real data that a dependency ships, so that every chapter runs with no network: PBMC counts and handwritten digits."""

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.datasets import load_digits

from .qc import log_normalise

# Names as a biologist says them; the file has the sorting panel's marker strings.
CELL_TYPES = {
    "CD14+ Monocyte": "CD14 monocyte",
    "CD19+ B": "B",
    "CD34+": "CD34 progenitor",
    "CD4+/CD25 T Reg": "CD4 T regulatory",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T naive",
    "CD4+/CD45RO+ Memory": "CD4 T memory",
    "CD56+ NK": "NK",
    "CD8+ Cytotoxic T": "CD8 T cytotoxic",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T naive",
    "Dendritic": "dendritic",
}


def pbmc() -> ad.AnnData:
    """700 human blood cells x 765 genes: real UMI counts, ten cell types, no download.

    The cells come from the 68k PBMC set of Zheng et al. (2017). Scanpy bundles them as log1p(CP10k) with every cell's
    total over *all* genes, `n_counts`; undoing both gives back integers (the tests bound the rounding), which are
    `layers["counts"]` (CSR, int32). `X` is log1p(CP10k) by `n_counts` (CSR, float32). `obs`: `cell_type`, `n_counts`,
    `n_genes`, `percent_mito` (a fraction), `phase`. The 765 genes hold about a fifth of each cell's UMIs.
    """
    bundled = sc.datasets.pbmc68k_reduced()
    total = bundled.obs["n_counts"].to_numpy(np.float64)
    counts = bundled.raw.X.astype(np.float64).tocsr()
    counts.data = np.round(np.expm1(counts.data) * np.repeat(total, np.diff(counts.indptr)) / 1e4)
    cells = ad.AnnData(
        log_normalise(counts, total),
        layers={"counts": counts.astype(np.int32)},
        var=bundled.raw.var[[]],
        obs=bundled.obs[["n_counts", "n_genes", "percent_mito", "phase"]],
    )
    cell_type = bundled.obs["bulk_labels"].cat.rename_categories(CELL_TYPES)
    cells.obs.insert(0, "cell_type", cell_type.cat.reorder_categories(sorted(CELL_TYPES.values(), key=str.lower)))
    cells.obsm["X_umap"] = bundled.obsm["X_umap"]
    cells.uns["source"] = "scanpy.datasets.pbmc68k_reduced, from 10x Genomics' Fresh 68k PBMCs (Donor A), CC BY 4.0"
    return cells


def digits() -> ad.AnnData:
    """1,797 handwritten digits of 8 x 8 pixels: `X` (1797, 64), ink 0 to 16, row by row; `obs["digit"]` 0 to 9. Not
    counts.
    """
    source = load_digits()
    images = ad.AnnData(source.data.astype(np.float32))
    images.obs["digit"] = source.target.astype(str)
    images.obs["digit"] = images.obs["digit"].astype("category")
    images.var_names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    images.uns |= {
        "unit": "ink, 0 to 16 (a 4 x 4 block of pixels that are on or off)",
        "source": "sklearn.datasets.load_digits",
    }
    return images
