"""Models of cells' coordinates: what `train ddpm`, `train flow` and `train ebm` share, from counts to counts."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lab import metrics
from lab.data.prepare import log_normalise
from lab.errors import Refused
from lab.metrics.report import components
from lab.nets import Coordinates, Minibatch

from .folder import say

COMPONENTS = 20  # where there are components and no number is given


class InCoordinates(nn.Module):
    """Counts -> coordinates -> a law of these, and back. A model adds `loss(b)`, `points(b, **how)`, coordinates
    (B, D) of new cells like those of `b`, and `evidence(batches)`, how likely cells are, in nats a coordinate, which
    run.json calls `said`."""

    said = "held-out log p, nats a coordinate"

    def __init__(self, coordinates: Coordinates):
        super().__init__()
        self.coordinates = coordinates

    @property
    def device(self) -> torch.device:
        return self.coordinates.mean.device

    def fit(self, batches: Iterable[Minibatch]) -> "InCoordinates":
        """Fit the map to minibatches of training cells, which can be read several times."""
        self.coordinates.fit(_Counts(batches))
        return self

    @torch.no_grad()
    def draw(self, b: Minibatch, **how) -> Tensor:
        """Counts (B, G) of new cells with the depths and conditions of `b`."""
        return self.coordinates.draw(self.points(b, **how), b["log_library"])


def coordinates_of(known, options: dict) -> Coordinates:
    """As many as `options` ask for, not yet fitted."""
    genes, n = len(known.genes), options["coordinates"]
    if n is None:
        n = 0 if options.get("preset") == "large" else min(COMPONENTS, genes)
    if n > genes:
        raise Refused(f"--coordinates {n}, but there are {genes} genes; ask for fewer, or 0 for the genes themselves")
    return Coordinates(genes, n)


def fitted(model: InCoordinates, known) -> InCoordinates:
    """The model, its map fitted to the training cells; of a run that is reopened, as it is."""
    try:
        return model if known.batches is None else model.fit(known.batches)
    except Refused as why:
        raise Refused(f"--coordinates {model.coordinates.n}: {why}") from None


def steps_of(sampler: str, evaluations: int, each: int) -> int:
    """How many steps of `each` evaluations of the network there are; `Refused` for none."""
    if evaluations < each:
        raise Refused(
            f"{sampler} takes {each} evaluations a step, more than --evaluations {evaluations}; give {each} or more"
        )
    return evaluations // each


def results(model: InCoordinates, cells) -> tuple[dict, dict]:
    """How well held-out cells are described, whether drawn cells are remembered ones, and where all cells lie."""
    import anndata as ad

    on = lambda batches: (send_to_device(b, model.device) for b in batches)
    report = {
        "held-out loss": cells.held_out_loss(model.loss, model.device),
        model.said: model.evidence(on(cells.tested)),
        "nearer to training": (near := remembered(model, cells)),
    }
    if near > 0.5 + 2.5 / min(cells.held_out.sum(), 500) ** 0.5:  # five standard deviations of a fair coin
        say(
            f"{near:.0%} of drawn cells lie nearer to a training cell than to a held-out one, and half would be fair: "
            "cells are remembered; give more of them, fewer --epochs or a smaller --n-hidden"
        )
    table = ad.AnnData(obs=cells.obs)
    if model.coordinates.n:
        z = [model.coordinates(b["x"]).cpu() for b in on(cells.everyone)]
        table.obsm["X_coordinates"] = torch.cat(z).numpy()
    return report, {"coordinates.h5ad": table.write_h5ad}


def remembered(model: InCoordinates, cells, n: int = 500) -> float:
    """The share of drawn cells, `n` at most, that lie nearer to a training cell than to a held-out one, among as many
    of each; about 1/2 where nothing is remembered. They have the depths and conditions of other training cells.
    `cells` are the run's."""
    train, test = (_shuffled(which) for which in (~cells.held_out, cells.held_out))
    n = min(n, len(test), (len(train) + 1) // 2)
    of = lambda rows: cells.everyone.dataset.__getitems__(rows.tolist())
    told = {name: value.to(model.device) for name, value in of(train[-n:]).items()}
    known = torch.cat([of(train[:n])["x"], of(test[:n])["x"]]).numpy()
    known, drawn = (log_normalise(x, x.sum(1)).toarray() for x in (known, model.draw(told).cpu().numpy()))
    known, drawn = components(known, drawn)
    return metrics.closer_to_training(drawn, known[:n], known[n:])


class _Counts:
    """The counts of minibatches, as often as one asks."""

    def __init__(self, batches: Iterable[Minibatch]):
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return (b["x"] for b in self.batches)


def _shuffled(which: np.ndarray) -> Tensor:
    rows = torch.from_numpy(np.flatnonzero(which))
    return rows[torch.randperm(len(rows))]
