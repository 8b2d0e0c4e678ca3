"""`predict DIR CELLS.h5ad`: what a finished run says of cells under conditions that they did not have."""

from pathlib import Path

import torch

from lab.errors import Refused

from .cells import as_counts, called
from .embed import matched
from .folder import kind, recipe_of, reopen, say, write
from .recipes import found
from .vcc import vcc


def predict(*, run: Path, data: str, out: Path, condition: tuple, layer: str | None, layout: str, seed: int) -> None:
    """Write to `out` what the run's model predicts of the cells of `data`, their genes matched as `embed` does, under
    each `condition`, a (name, value); a name may be given several values. All that is random comes of `seed`. With
    `layout` "vcc" the file is as `vcc` makes it, these cells its controls.

    Raises `Refused`, one sentence: a model that predicts nothing, genes or counts that `embed` would refuse, and
    conditions that the model cannot be told.
    """
    model, record = reopen(run)
    name, genes = record["arguments"]["model"], record["genes"]
    if (foretell := recipe_of(record).predict) is None:
        others = " or ".join(name for name, recipe in found().items() if recipe.predict)
        raise Refused(f"{run} holds {kind(record)}, which predicts no other conditions; train one that does: {others}")
    cells, layer, absent = matched(data, layer, genes, run)
    given = as_counts(cells, layer, genes)
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        predicted = foretell(model, given, record, list(condition), seed)
    if layout == "vcc":
        if (by := record["arguments"].get("perturbation")) not in predicted.obs:
            raise Refused(f"{run} holds {kind(record)}, which knows no perturbations; leave --layout out")
        predicted = vcc(predicted, given, by)
    asked = ["=".join(pair) for pair in condition]
    origin = {"run": str(run), "model": name, "data": data, "layer": layer, "genes missing": absent, "seed": seed}
    predicted.uns["predict"] = origin | {"condition": asked}
    write(out, predicted.write_h5ad)
    say(
        f"{out}: {predicted.n_obs:,} rows, predicted by the {name} in {run} for {', '.join(asked)} from "
        f"{cells.n_obs:,} cells, counts from {called(layer)}"
    )
