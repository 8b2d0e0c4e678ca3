"""Norman et al. 2019: pairs of genes switched on in K562 cells, from scPerturb."""

from collections.abc import Sequence

import anndata as ad

from .. import harmonised
from ..card import Card
from ..public import announced, locate
from ..read import read
from ..screens import as_screen

CARD = Card(
    call="norman()",
    kind="public",
    cells=111445,
    genes=33694,
    licence=harmonised.LICENCE,
    citation="norman2019",
    source=harmonised.SOURCE,
    files=harmonised.published("NormanWeissman2019_filtered"),
    instead="perturbseq()",
    subset="norman19_subset_3375x500_counts.h5ad",
)


def norman(perturbations: Sequence[str] | None = None) -> ad.AnnData:
    """111,445 K562 cells x 33,694 genes; one gene or a pair of them switched on by CRISPR activation (GEO GSE133344).

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen` (pairs are named
    A+B, in the alphabet's order), `guide`, `batch` (the lane), `cell_type` and `n_counts`. `perturbations` reads these
    and the controls only. Downloads 699 MB, and all cells take about 3 GB, twice that while they are read. The
    development subset has 3,375 cells, 500 genes (1 % of each cell's UMIs: `n_counts` is the full total), 100 controls,
    and neither guide nor batch.
    """
    (path,), published = locate(CARD)
    if published:
        cells, by = harmonised.opened(path), "perturbation"
        keep = harmonised.present(cells, guide="guide_id", batch="gemgroup", cell_type="celltype", n_counts="ncounts")
    else:
        cells, by, keep = read(path), "condition", {"n_counts": "ncounts"}
    cells = as_screen(cells, by, control="control", separator="+", only=perturbations, keep=keep)
    return announced("norman", cells)
