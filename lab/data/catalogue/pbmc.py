"""Blood cells that scanpy ships, so that every chapter runs with no network: 700, their counts recovered."""

import anndata as ad
import numpy as np
import scanpy as sc

from ..card import Card
from ..prepare import log_normalise

CARD = Card(
    call="pbmc()",
    kind="real",
    cells=700,
    genes=765,
    licence="CC BY 4.0",
    citation="zheng2017",
    source="scanpy.datasets.pbmc68k_reduced",
)
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
