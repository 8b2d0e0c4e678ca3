"""`train MODEL`: one recipe fitted to one set of cells in one folder, from wherever it stands to its end."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from lab.errors import Refused
from lab.train import fit

from .cells import called
from .folder import begin, begun, finish, finished, first, same, say, summary
from .parts import gather
from .recipes import Recipe

VERSIONS = ("generating-cells", "torch", "numpy", "anndata", "accelerate")


@dataclass(frozen=True)
class Watched:
    """Minibatches, after the last of which `line()` is said."""

    batches: Iterable
    line: Callable[[], str]

    def __iter__(self) -> Iterator:
        yield from self.batches
        say(self.line())


def train(model: str, recipe: Recipe, *, data: str, out: Path, condition: tuple[str, ...] = (), **options) -> None:
    """Fit `recipe`, called `model`, to the cells of `data`; `options` are the others of `options.TRAINING`, and the
    recipe's own.

    A folder that holds a checkpoint is continued; one made with other settings or cells, or by anything else, is
    refused. Raises `Refused`, one sentence.
    """
    asked = {"data": data, "model": model, "conditions": list(condition), **options}
    asked["lr"] = asked["lr"] or recipe.lr
    if before := begun(out):
        asked["layer"] = asked["layer"] or before["arguments"].get("layer")
        may_differ = ("data", "epochs", "steps")
        same(out, before, **{name: value for name, value in asked.items() if name not in may_differ})
        if finished(out, before) and before["arguments"] == asked:
            say(f"{out} is finished: {summary(before)}; more --epochs continue it")
            return

    cells = recipe.gather(data, asked) if recipe.gather else gather(data, asked, recipe.columns)
    asked["layer"] = cells.layer
    record = {
        "arguments": asked,
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "cells": {
            "number": cells.adata.n_obs,
            "held out": int(cells.held_out.sum()),
            "genes": cells.adata.n_vars,
            "sha256": cells.fingerprint(),
        },
        "conditions": cells.levels,
    }
    if before and before["cells"]["sha256"] != record["cells"]["sha256"]:
        what = "cells, genes, counts or conditions" if cells.levels else "cells, genes or counts"
        raise Refused(f"{out} holds a run on other {what} than {data} has; give another --out")

    torch.manual_seed(asked["seed"])
    network = recipe.build(cells.known(), asked)
    loss = recipe.loss(network, asked)
    torch.manual_seed(asked["seed"] + int(os.environ.get("RANK", 0)) + 1)  # noise of its own for each process
    learning = nn.ModuleList([network, loss]) if isinstance(loss, nn.Module) else network
    say(
        f"{cells.adata.n_obs:,} cells ({cells.held_out.sum():,} held out) x {cells.adata.n_vars:,} genes, counts from "
        f"{called(cells.layer)}; results go to {out}"
    )
    trained, tested = cells.trained(), cells.tested
    if recipe.watch:
        tested = Watched(tested, recipe.watch(network, cells))
    with begin(out, None if before else record):
        history = fit(
            learning,
            loss,
            trained,
            n=asked["steps"] or asked["epochs"] * len(trained),
            lr=asked["lr"],
            validate=tested,
            patience=asked["patience"],
            checkpoint=out / "checkpoint",
        )
    if first():
        finish(out, record, network, history, cells, recipe.results)
