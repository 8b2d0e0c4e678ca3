"""scPerturb: fifty-one perturbation screens in one layout, Peidli et al. 2024."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd

from lab.errors import Refused

from .. import harmonised
from ..card import Card
from ..public import announced, locate
from ..screens import as_screen

CARD = Card(
    call="scperturb(name)",
    kind="public",
    cells=None,
    genes=None,
    licence=harmonised.LICENCE,
    citation="peidli2024",
    source=harmonised.SOURCE,
    files=harmonised.published(*harmonised.MD5),
    instead="perturbseq()",
)


def scperturb(name: str, perturbations: Sequence[str] | None = None, *, control: str = "control") -> ad.AnnData:
    """The screen in one file of scPerturb, named as there without ".h5ad": `scperturb("DatlingerBock2021")`.

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen`, and of `guide`,
    `batch`, `cell_type`, `cell_line`, `time` and `n_counts` what the file has; `dose` is 1 unless every perturbed cell
    has a number in `dose_value`, and `uns["dose_unit"]` says what that counts. `perturbations` reads these and the
    controls only. `control` names them where the file does not say "control". The files of one to nine GB (Joung 2023,
    Replogle 2022, sci-Plex 3, Gasperini 2019, Frangieh 2021) do not fit in a laptop's memory whole.

    The published layout was read from scPerturb's own code and from reports on its files; none could be opened here.
    """
    if name.removesuffix(".h5ad") not in harmonised.MD5:
        near = difflib.get_close_matches(name, harmonised.MD5, 3, 0.4) or list(harmonised.MD5)[:3]
        raise Refused(f"scPerturb has no {name!r}; the nearest of its {len(harmonised.MD5)}: {', '.join(near)}")
    name = name.removesuffix(".h5ad")
    (path,), _ = locate(replace(CARD, call=f'scperturb("{name}")', files=harmonised.published(name)))
    cells = harmonised.opened(path)
    names = {"guide": "guide_id", "cell_type": "celltype", "n_counts": "ncounts"}
    names |= {same: same for same in ("batch", "cell_line", "time")}
    keep = {new: old for new, old in names.items() if old in cells.obs}
    how = {"control": control, "separator": "+", "only": perturbations, "keep": keep}
    screen = as_screen(cells, "perturbation", dose=_dose(cells.obs, control), **how)
    if "dose_unit" in cells.obs and (unit := cells.obs["dose_unit"].dropna()).size:
        screen.uns["dose_unit"] = str(unit.iloc[0])
    return announced(f'scperturb("{name}")', screen)


def _dose(obs: pd.DataFrame, control: str) -> str | None:
    """The column of doses, where each perturbed cell has one."""
    if "dose_value" not in obs:
        return None
    of = obs["perturbation"]
    dose = pd.to_numeric(obs["dose_value"].astype(object), errors="coerce")[of.notna() & (of != control)]
    return "dose_value" if np.isfinite(dose).all() and (dose != 0).all() else None
