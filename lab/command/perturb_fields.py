"""Perturbations over a graph of genes, and in coordinates: what `train gears`, `perturb-diffusion` and `perturb-flow`
train, and their losses."""

import anndata as ad
import pandas as pd
import torch
from torch import Tensor

from lab import data, perturb
from lab.errors import Refused
from lab.nets import Coordinates, Minibatch

from .folder import say
from .in_coordinates import InCoordinates, coordinates_of, fitted
from .perturbed import controls, design, naming, stand_ins

SOURCE = 2000  # control cells from which a flow learns to begin: as many in every run, so that one can be reopened


class OverGraph(perturb.GEARS):
    """GEARS that knows whether training cells had full totals, by which it normalises those that it predicts, too."""

    def __init__(self, cells: ad.AnnData, graph: pd.DataFrame, full: bool, **how):
        super().__init__(cells, graph, **how)
        self.register_buffer("full", torch.tensor(full))

    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """As `perturb.GEARS`; `Refused` for cells whose totals are of another kind than those of training."""
        if self.full != ("n_counts" in control.obs):
            had, have = ("had", "have none") if self.full else ("had no", "have it: remove it")
            raise Refused(f"training cells {had} obs['n_counts'], the full totals, and these {have}; give both alike")
        return super().predict(control, name, seed=seed)


def gears(known, options: dict) -> OverGraph:
    """Its graph is over the modelled genes and the perturbed ones that are not among them, which have no neighbours by
    co-expression."""
    parts, own = design(known, options).parts, set(known.genes)
    genes = [*known.genes, *(more := [part for part in parts if part not in own])]
    sizes = {"n_layers": options["n_layers"], "n_hidden": options["n_hidden"]}
    begun = lambda graph, full: OverGraph(stand_ins(known, options), graph, full, **sizes, **naming(options))
    if known.batches is None:
        return begun(pd.DataFrame(0, genes, genes), False)
    if more:
        say(f"{len(more)} of {len(parts)} perturbations are no genes that are modelled (first: {more[0]!r})")
    control, source = controls(known, options), options["graph"]
    if source == "coexpression":
        graph = perturb.coexpression_graph(control, options["neighbours"])
        graph = graph.reindex(index=genes, columns=genes, fill_value=0)
    else:
        graph = perturb.gene_set_graph(data.programmes(genes, source), options["neighbours"])
    model = begun(graph, "n_counts" in control.obs)
    model.start.copy_(torch.tensor(perturb.gears.log_expression(control).mean(0)))
    return model


def gears_loss(model: OverGraph, b: Minibatch) -> dict[str, Tensor]:
    """Squared error of log expression, summed over genes."""
    return perturb.gears.loss(model, b)


def _coordinates(known, options: dict) -> Coordinates:
    coordinates = fitted(InCoordinates(coordinates_of(known, options)), known).coordinates
    if known.batches is None:
        coordinates.mean.zero_()  # NaN says that nothing was fitted, and what was is loaded next
    return coordinates


def diffusion(known, options: dict) -> perturb.PerturbDiffusion:
    """From noise to the coordinates of perturbed cells."""
    of = design(known, options), _coordinates(known, options)
    return perturb.PerturbDiffusion(*of, n_hidden=options["n_hidden"])


def flow(known, options: dict) -> perturb.PerturbFlow:
    """It begins at `SOURCE` training controls or, of fewer, at each about as often."""
    counts = (stand_ins if known.batches is None else controls)(known, options).layers["counts"]
    rows = torch.randperm(max(counts.shape[0], SOURCE))[:SOURCE] % counts.shape[0]
    of = design(known, options), _coordinates(known, options)
    return perturb.PerturbFlow(*of, counts[rows.numpy()], n_hidden=options["n_hidden"])


def diffusion_loss(model: perturb.PerturbDiffusion, b: Minibatch) -> dict[str, Tensor]:
    """That of `lab.denoise`, in coordinates."""
    return perturb.transport.diffusion_loss(model, b)


def flow_loss(model: perturb.PerturbFlow, b: Minibatch) -> dict[str, Tensor]:
    """Flow matching between coupled cells, in coordinates."""
    return perturb.transport.flow_loss(model, b)
