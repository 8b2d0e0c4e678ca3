"""What the recipes of `perturbation` share: the columns they are told, labels that a method can begin from without
cells, and what a finished run says of cells."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from scipy import sparse
from torch import nn

from lab import perturb
from lab.data.counts import labels
from lab.errors import Refused
from lab.perturb import Design


def columns(cells: ad.AnnData, options: dict) -> tuple[dict, list]:
    """The obs columns of minibatches, as `Recipe.columns`: the perturbation, the control's code 0; the group, the dose
    and, for GEARS, the full total where cells have it. Raises `Refused` where no cell is a control, and for doses that
    are none."""
    by, control, dose = options["perturbation"], options["control"], options.get("dose")
    known = labels(cells, by).astype(str).value_counts().index.tolist()
    if control not in known or len(known) < 2:
        raise Refused(
            f"obs[{by!r}] holds {', '.join(known[:5])}: a model learns from cells labelled {control!r} and from "
            "perturbed ones in one file; give both, or the label of its controls, --control NAME"
        )
    if dose is not None:
        of = labels(cells, dose)
        if not pd.api.types.is_numeric_dtype(of) or not (of >= 0).all():
            raise Refused(f"obs[{dose!r}] holds what is no dose; store numbers from 0 up, 0 for controls")
    group = {options["group"]: None} if options.get("group") else {}
    full = ["n_counts"] if "graph" in options and "n_counts" in cells.obs else []
    return group | {by: control}, ([dose] if dose else []) + full


def stand_ins(known, options: dict) -> ad.AnnData:
    """A cell of each label, in the order of their codes, which has a count of every gene: all that a `Design` asks of
    cells."""
    of = list(map(str, known.levels[options["perturbation"]]))
    counts = sparse.csr_matrix(np.ones((len(of), len(known.genes))))
    obs, var = pd.DataFrame({options["perturbation"]: of}, of), pd.DataFrame(index=known.genes)
    return ad.AnnData(layers={"counts": counts}, obs=obs, var=var)


def controls(known, options: dict) -> ad.AnnData:
    """The training controls, with what minibatches hold of them."""
    found = [{name: of[b[options["perturbation"]] == 0] for name, of in b.items()} for b in known.batches]
    counts = sparse.vstack([sparse.csr_matrix(b["x"].numpy()) for b in found], "csr")
    full = {"n_counts": torch.cat([b["n_counts"] for b in found]).numpy()} if "n_counts" in found[0] else {}
    obs = pd.DataFrame(full, [f"control-{i}" for i in range(counts.shape[0])])
    return ad.AnnData(layers={"counts": counts}, obs=obs, var=pd.DataFrame(index=known.genes))


def naming(options: dict) -> dict[str, str]:
    """How labels are read, as every method of `lab.perturb` is told it."""
    return {"by": options["perturbation"], "control": options["control"], "separator": options["separator"]}


def design(known, options: dict) -> Design:
    """What the labels of a run are made of."""
    return Design(stand_ins(known, options), dose=options.get("dose"), **naming(options))


def results(model: nn.Module, cells, loss: Callable, claims: Callable, place: Callable | None) -> tuple[dict, dict]:
    """The held-out `loss(model, b)`, what a method says of its idea, `claims(model, cells)`, and where all cells lie by
    `place(model, b)`."""
    device = next(model.parameters()).device
    report = {"held-out loss": cells.held_out_loss(partial(loss, model), device)} | claims(model, cells)
    if place is None:
        return report, {}
    found = torch.cat([place(model, send_to_device(b, device))["X_vae"].cpu() for b in cells.everyone]).numpy()
    return report, {"latent.h5ad": ad.AnnData(obs=cells.obs, obsm={"X_vae": found}).write_h5ad}


def predicted(model, cells: ad.AnnData, record: dict, conditions: list, seed: int) -> ad.AnnData:
    """What a run's model makes of control `cells` under each perturbation that `conditions` name and, where it knows
    doses, at the one that they name. Raises `Refused` for other names, and for cells that are no controls."""
    asked = record["arguments"]
    by, dose, control = asked["perturbation"], asked.get("dose"), asked["control"]
    if other := [name for name, _ in conditions if name not in (by, dose)]:
        told = f"{by} and {dose}" if dose else by
        raise Refused(f"this model knows no {other[0]!r}: it is asked by --condition {by}=A, and is told {told} alone")
    names, doses = ([value for name, value in conditions if name == one] for one in (by, dose))
    if not names or len({*names}) < len(names) or len(doses) > 1:
        raise Refused(f"name each perturbation once, --condition {by}=A, and with all of them one dose at most")
    if by in cells.obs and (others := cells.obs[by].astype(str) != control).any():
        raise Refused(
            f"{others.sum()} of {cells.n_obs} cells are labelled otherwise than {control!r} (first: "
            f"{cells.obs[by][others].iloc[0]!r}), and a prediction begins at controls; give those alone"
        )
    if not doses:
        return perturb.predict(model, cells, names, seed=seed)
    at = SimpleNamespace(predict=partial(model.predict, dose=number(dose, doses[0])))
    found = perturb.predict(at, cells, names, seed=seed)
    found.obs[dose] = number(dose, doses[0])
    return found


def number(name: str, value: str) -> float:
    """What was given as a dose."""
    try:
        return float(value)
    except ValueError:
        raise Refused(f"{name}={value} is no number; give a dose, --condition {name}=0.5") from None
