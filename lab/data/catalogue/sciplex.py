"""Srivatsan et al. 2020: sci-Plex 3, 188 drugs at four doses on three cell lines, from scPerturb."""

from collections.abc import Sequence

import anndata as ad

from .. import harmonised
from ..card import Card
from ..public import announced, locate
from ..screens import as_screen

CARD = Card(
    call="sciplex()",
    kind="public",
    cells=762795,
    genes=110983,
    licence=harmonised.LICENCE,
    citation="srivatsan2020",
    source=harmonised.SOURCE,
    files=harmonised.published("SrivatsanTrapnell2020_sciplex3"),
    instead="perturbseq()",
)


def sciplex(perturbations: Sequence[str] | None = None) -> ad.AnnData:
    """762,795 nuclei of A549, K562 and MCF7 cells x 110,983 genes; each got one of 188 drugs at 10, 100, 1,000 or
    10,000 nM, or the vehicle (GEO GSE139944, sample GSM4150378).

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen`, `dose` in nM;
    `cell_type` (the line), `batch` (the replicate), `time` (hours) and `n_counts`. 36,522 nuclei of the file have no
    drug and are left out. A "+" within a drug's name reads "plus": "(plus)-JQ1". Downloads 2.5 GB with 1.0 billion
    counts, 8 GB in memory and twice that while they are read: `perturbations` reads these drugs and the 17,578 controls
    only.
    """
    (path,), _ = locate(CARD)
    cells = harmonised.opened(path)
    keep = harmonised.present(cells, cell_type="cell_line", batch="replicate", time="time", n_counts="ncounts")
    how = {"control": "control", "dose": "dose_value", "only": perturbations, "keep": keep}
    cells = as_screen(cells, "perturbation", **how)
    cells.uns["dose_unit"] = "nM"
    return announced("sciplex", cells)
