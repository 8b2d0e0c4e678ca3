"""What sets a family of models apart on the command line: one file a family, found by listing this folder.

A file holds one `Recipe` for each command, under its name (`beta_vae` for `train beta-vae`). It imports nothing heavy
outside its functions, for its options are read before anything else is loaded.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import click


class Recipe(NamedTuple):
    """Three callables that train a model, its own options, its help, and what a finished run of it can do.

    `build(known, options) -> model`, a Module, from what is `Known` of the cells and the options by name
    (`options["n_latent"]`), the same when a run begins and when it is reopened;
    `loss(model, options) -> loss(b)`, which is trained with the model where it is a Module;
    `results(model, cells) -> (report, files)`: numbers by name for run.json, and for each further file its name and a
    function that writes it to a path; `cells` are the run's `Cells`.
    `sample(model, b) -> counts` (B, G), new cells of the depths and conditions in `b`;
    `embed(model, b) -> {key: coordinates}`, each (B, Z), for `obsm`.
    `predict(model, cells, record, conditions, seed) -> AnnData`: `model, record = reopen(run)`, `cells` an AnnData with
    the run's genes in order and counts in layers["counts"], `conditions` the (name, value) pairs as given, of which a
    name may be repeated: its values are predicted one by one, into one AnnData. torch's stream begins with `seed`.
    None, of these three: the family has no such thing.
    `gather(source, options) -> Cells`, where a minibatch need not be some rows of the file. Then a cell's place may
    depend on other rows, and `embed(model, cells, record)` is given them all, as `predict` is.
    `watch(model, cells) -> line()`: what is said of held-out cells after each validation, one sentence.
    `columns(cells, options) -> (labels, numbers)`: the obs columns that minibatches have. `labels` names those of which
    codes are made, each with the label whose code is 0, before all others by name, or None for their own order;
    `numbers` lists those of measurements. None: the labels that --condition names.
    `blind`: `embed` looks at counts alone, and new cells need no such columns.
    `lr`: the learning rate where none is given.
    `guided`: `sample` takes a scale too, and follows the conditions less (0: not at all) or more than at 1.
    `samplers`: the names that `sample` takes as its sampler, the first where none is given, and a number of
    evaluations of the network.
    """

    build: Callable
    loss: Callable
    results: Callable
    options: tuple[click.Option, ...]
    help: str
    sample: Callable | None = None
    embed: Callable | None = None
    predict: Callable | None = None
    gather: Callable | None = None
    watch: Callable | None = None
    columns: Callable | None = None
    blind: bool = False
    lr: float = 1e-3
    guided: bool = False
    samplers: tuple[str, ...] = ()


class Known(NamedTuple):
    """What a model is built from: the genes' names, each condition's labels in the order of their codes, and the
    training cells' minibatches, in order. These are None when a run is reopened: what a model takes from them must be
    a buffer, which is among its weights."""

    genes: list[str]
    levels: dict[str, list]
    batches: Iterable[dict[str, Any]] | None = None


def later(path: str) -> Callable:
    """MODULE.FUNCTION of the command line, which is imported when it is called."""
    module, name = path.split(".")
    return lambda *given: getattr(importlib.import_module(f"lab.command.{module}"), name)(*given)


def found() -> dict[str, Recipe]:
    """Every recipe by the name of its command."""
    recipes = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        own = {name.replace("_", "-"): one for name, one in vars(module).items() if isinstance(one, Recipe)}
        recipes |= own
    return recipes
