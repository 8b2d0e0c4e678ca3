"""Papalexi et al. 2021: 25 genes knocked out in THP-1 cells, ECCITE-seq, from scPerturb."""

from collections.abc import Sequence

import anndata as ad

from .. import harmonised
from ..card import Card
from ..public import announced, locate
from ..read import read
from ..screens import as_screen

CARD = Card(
    call="papalexi()",
    kind="public",
    cells=20729,
    genes=18649,
    licence=harmonised.LICENCE,
    citation="papalexi2021",
    source=harmonised.SOURCE,
    files=harmonised.published("PapalexiSatija2021_eccite_RNA"),
    instead='perturbseq(screen="knockout", n_doubles=0)',
    subset="papalexi2021_thp1_counts.h5ad",
)


def papalexi(perturbations: Sequence[str] | None = None) -> ad.AnnData:
    """20,729 THP-1 cells x 18,649 genes; regulators of immune checkpoints knocked out by CRISPR (GEO GSE153056).

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen` (a perturbation is
    the target gene of a cell's guide), `guide`, `batch` (the biological replicate) and, published, `cell_type` and
    `n_counts`. `perturbations` reads these and the controls only. Downloads 147 MB. The development subset has the
    same cells and 299 genes, drawn at random by those who passed it on; `confident` there says whose guide is beyond
    doubt (more than 80 % of five or more guide UMIs), of 16,093 cells.
    """
    (path,), published = locate(CARD)
    if published:
        cells, by, control = harmonised.opened(path), "perturbation", "control"
        cells.obs[by] = cells.obs[by].astype("string").str.replace(r"g\d+$", "", regex=True)  # STAT2g1 -> STAT2
        keep = harmonised.present(cells, guide="guide_id", batch="hto", cell_type="celltype", n_counts="ncounts")
    else:
        cells, by, control = read(path), "target", "non-targeting"
        keep = {"guide": "top_gRNA", "batch": "bio_rep", "confident": "confident"}
    return announced("papalexi", as_screen(cells, by, control=control, only=perturbations, keep=keep))
