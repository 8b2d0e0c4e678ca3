"""Replogle et al. 2022: the essential genes, each knocked down in K562 cells, from scPerturb."""

from collections.abc import Sequence

import anndata as ad

from .. import harmonised
from ..card import Card
from ..public import announced, locate
from ..screens import as_screen

CARD = Card(
    call="replogle()",
    kind="public",
    cells=310385,
    genes=8563,
    licence=harmonised.LICENCE,
    citation="replogle2022",
    source=harmonised.SOURCE,
    files=harmonised.published("ReplogleWeissman2022_K562_essential"),
    instead='perturbseq("medium")',
)


def replogle(perturbations: Sequence[str] | None = None) -> ad.AnnData:
    """310,385 K562 cells x 8,563 genes; some 2,000 essential genes knocked down by CRISPR interference.

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen`, `guide`, `batch`
    (the lane) and `n_counts`. Downloads 1.5 GB, which hold 10.6 GB of numbers: `perturbations` reads these and the
    10,691 controls only. The screens of all expressed genes and of RPE1 cells are
    `scperturb("ReplogleWeissman2022_K562_gwps")` and `scperturb("ReplogleWeissman2022_rpe1")`.
    """
    (path,), _ = locate(CARD)
    cells = harmonised.opened(path)
    keep = harmonised.present(cells, guide="guide_id", batch="batch", n_counts="ncounts")
    cells = as_screen(cells, "perturbation", control="control", separator="+", only=perturbations, keep=keep)
    return announced("replogle", cells)
