"""The schema that all perturbation screens share, simulated or real: how cells are brought to it, and its check."""

import difflib
from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.errors import Refused

from .counts import CHUNK, column, count_totals, in_csr, labels, matrix_of, whole
from .screen.perturbations import CONTROL

SCHEMA = ("perturbation", "control", "nperts", "dose")
CATEGORIES = ("batch", "cell_type", "cell_line", "guide")  # of the columns kept
NAMELESS = ("", "nan", "None", "NA")  # what a missing label became when it was written as text


def as_screen(
    adata: ad.AnnData,
    by: str,
    *,
    control: str,
    separator: str | None = None,
    dose: str | None = None,
    layer: str = "X",
    only: Sequence[str] | None = None,
    keep: dict[str, str] | None = None,
) -> ad.AnnData:
    """The cells of `adata`, in memory or on disk, as a screen: raw counts from `layer` in `layers["counts"]`, X empty,
    and in `obs`

    - `perturbation`: "control" for cells that `obs[by]` calls `control`; else their name there. The parts of a
      combination, which `separator` joins, stand in the alphabet's order with "+" between them ("+" means nothing
      else: in a single name it becomes "plus").
    - `control` (bool); `nperts`, how many perturbations a cell carries, 0 for a control.
    - `dose`: 0 for a control, `obs[dose]` else; 1 where no `dose` is given.
    - `keep`: its columns, a dict new name: name in `adata.obs`.

    Cells without a label are left out, and their number is printed. `only` reads the cells of these perturbations and
    all controls. Raises `Refused`: a column that is missing, a control or perturbation that no cell has, values that
    are no counts, a dose that is no number.
    """
    matrix = matrix_of(adata, layer)
    label = column(adata, by).astype(object)
    text = label.astype(str).str.strip().where(label.notna(), "")
    there = ~text.isin(NAMELESS)
    seen = sorted(set(text[there]))
    if control not in seen:
        raise Refused(f"no cell is {control!r} in obs[{by!r}]; {_near(control, seen)}; name the controls as there")
    if CONTROL in seen and control != CONTROL:
        raise Refused(f"obs[{by!r}] has {CONTROL!r} beside {control!r}; rename one, as all controls get that name")
    name = {one: _name(one, control, separator) for one in seen}
    of = text.map(name)
    if missing := there.size - int(there.sum()):
        print(f"{missing:,} of {there.size:,} cells have no label in {by!r}, and are left out")
    if only is not None:
        asked = {"+".join(sorted(str(one).split("+"))) for one in only}
        if unknown := sorted(asked - set(name.values())):
            raise Refused(f"no cell carries {unknown[0]!r}; {_near(unknown[0], sorted(set(name.values())))}")
        there &= of.isin({*asked, CONTROL})
    of, rows = of[there], there.to_numpy()
    is_control = (of == CONTROL).to_numpy()
    new = pd.DataFrame({"perturbation": pd.Categorical(of, [CONTROL, *sorted(set(of) - {CONTROL})])}, of.index)
    new["control"], new["nperts"] = is_control, np.where(is_control, 0, of.str.count(r"\+") + 1)
    new["dose"] = (~is_control).astype(float)
    if dose is not None:
        given = pd.to_numeric(column(adata, dose)[there].astype(object), errors="coerce").to_numpy(float)
        if (bad := ~np.isfinite(given) & ~is_control).any():
            raise Refused(f"obs[{dose!r}] is no number for {bad.sum()} perturbed cells; fill it in, or give no dose")
        new["dose"] = np.where(is_control, 0.0, given)
    for to, old in (keep or {}).items():
        new[to] = column(adata, old)[there]
        if to in CATEGORIES:
            new[to] = new[to].astype(str).astype("category")
    parts = []
    for start in range(0, adata.n_obs, CHUNK):
        some = rows[start : start + CHUNK]
        if some.any():
            parts.append(in_csr(matrix[start : start + CHUNK][some], np.float32))
    counts = sparse.vstack(parts, format="csr") if len(parts) > 1 else parts[0]
    del parts
    var, where = adata.var[[]].copy(), {"X": counts} if layer == "X" else {"layers": {layer: counts}}
    count_totals(ad.AnnData(obs=new, var=var, **where), layer)  # refuses what is no count
    cells = ad.AnnData(obs=new, var=var, layers={"counts": counts.astype(np.int32)})
    check_screen(cells)
    return cells


def check_screen(adata: ad.AnnData) -> None:
    """Raise `Refused`, in one sentence, unless `adata` keeps the schema: its four columns, filled and in agreement, at
    least one control cell, and whole numbers in `layers["counts"]` (500 cells are looked at; `check_counts` reads
    all).
    """
    for name in SCHEMA:
        if name not in adata.obs:
            raise Refused(f"obs has no column {name!r}, and a screen has {', '.join(SCHEMA)}; as_screen makes them")
        labels(adata, name)
    control = adata.obs["control"]
    if control.dtype != bool:
        raise Refused(f"obs['control'] holds {control.dtype}, not True or False; as_screen makes it")
    if not control.any():
        raise Refused("no cell is a control, and every effect is measured against one; keep controls, or name them")
    for name, empty in (("perturbation", CONTROL), ("nperts", 0), ("dose", 0)):
        if (bad := (adata.obs[name] == empty).to_numpy() != control.to_numpy()).any():
            raise Refused(
                f"obs['control'] and obs[{name!r}] disagree for {bad.sum()} cells (first: "
                f"{adata.obs_names[bad][0]!r}): control cells, and no others, have {empty!r}; as_screen sets both"
            )
    if not whole(matrix_of(adata, "counts"), adata.n_obs):
        raise Refused("layers['counts'] holds values that are no counts; put raw integer counts there")


def _name(name: str, control: str, separator: str | None) -> str:
    """A perturbation's name in the schema. A part that is the control, as in "GENE_ctrl", is none."""
    parts = {part.strip() for part in (name.split(separator) if separator else [name])} - {control, ""}
    return "+".join(sorted(part.replace("+", "plus") for part in parts)) or CONTROL


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 3)
    return f"the nearest: {', '.join(map(repr, near))}" if near else f"there are {', '.join(map(repr, names[:5]))}, …"
