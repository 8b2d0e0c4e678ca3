"""What `train jepa --track` trains: an encoder of rows, by which an earlier row of a track tells where a later one
stands, and what is asked of it."""

import math
from collections.abc import Iterable

import anndata as ad
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lab import jepa
from lab.errors import Refused
from lab.nets import ConditionEmbedding, Log1pRelative, Minibatch, mlp

from .masked_genes import KEEPS, embed, standing
from .series import largest


class RowPairs(nn.Module):
    """An encoder with a hidden layer, counts -> (B, Z), and a predictor from a row to a later one of its track, told
    the time between them and the means of what led to the rows since (B, A), none above 1 from row to row."""

    def __init__(self, n_genes: int, n_action: int, n_latent: int, keeps: str):
        super().__init__()
        embed = ConditionEmbedding({}, numbers={"action": n_action})
        predictor = jepa.Predictor(mlp(n_latent + embed.n, 32, n_latent), embed)
        self.model = jepa.JEPA(nn.Sequential(Log1pRelative(), mlp(n_genes, 64, n_latent)), predictor)
        self.terms = KEEPS[keeps]
        self.register_buffer("most", torch.ones(n_action))

    def fit(self, batches: Iterable[Minibatch]) -> "RowPairs":
        """Fit the units of what is told to minibatches of training rows."""
        self.most.copy_(largest(batches))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, Z) of counts (B, G)."""
        return self.model.encoder(x)

    def pairs(self, b: Minibatch, i: Tensor, j: Tensor) -> Minibatch:
        """Rows i and later rows j (B, P) of windows (B, T, ...), as pairs (B P, ...) with what the predictor is
        told."""
        led = b["action"].cumsum(1)
        rows = lambda of, k: of.take_along_dim(k[..., None], 1).flatten(0, 1)
        told = rows(led, j) - rows(led, i)
        told[:, 1:] /= (j - i).flatten()[:, None]
        return {"context": rows(b["x"], i), "target": rows(b["x"], j), "action": told / self.most}

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`jepa.loss` of two rows of each window, drawn anew; of a single window, the prediction alone."""
        i, j = torch.rand_like(b["action"][..., 0]).argsort(1)[:, :2].sort(1).values.split(1, 1)
        return jepa.loss(self.model, self.pairs(b, i, j), **(self.terms if len(i) > 1 else {}))


def results(model: RowPairs, cells) -> tuple[dict, dict]:
    """How far from where they are the later rows of held-out windows are predicted, of every two, beside two guesses;
    whether the embedding has collapsed, and where all rows are."""
    on = lambda batches: (send_to_device(b, model.most.device) for b in batches)
    placed = torch.cat([model(b["x"]).cpu() for b in on(cells.everyone)])
    constant = placed[~cells.held_out].mean(0).to(model.most.device)
    i, j = torch.triu_indices(cells.window, cells.window, 1, device=model.most.device)
    errors = []
    for b in on(cells.tested):
        z = model(b["x"].flatten(0, 1)).unflatten(0, b["x"].shape[:2])
        pair = model.pairs(b | {"x": z}, i.expand(len(z), -1), j.expand(len(z), -1))
        guesses = model.model.predictor(pair["context"], pair), pair["context"], constant
        errors.append(torch.stack([(guess - pair["target"]).square().mean(1) for guess in guesses]))
    since = cells.everyone.dataset.columns["action"][:, 0]
    learnt = [rows for rows in cells.tracks if not cells.held_out[rows[0]]]
    gaps = [since[rows].unfold(0, cells.window, 1)[:, 1:].sum(1).max().item() for rows in learnt]
    names = "held-out prediction error", "of a predictor that stands still", "of a constant"
    of_run = {"rows a window": cells.window, "longest gap": max(gaps)}
    report, files = standing(placed, cells)
    return of_run | dict(zip(names, torch.cat(errors, 1).mean(1).tolist())) | report, files


def predict(model: nn.Module, cells: ad.AnnData, record: dict, conditions: list, seed: int) -> ad.AnnData:
    """Where each cell is predicted to stand after each gap, given what is done meanwhile: embeddings in obsm."""
    if not isinstance(model, RowPairs):
        raise Refused("this jepa was not told of time; train one with --track and --time, the columns of a time course")
    names, longest = record["conditions"]["action"][1:], record["results"]["longest gap"]
    gaps, done = {}, dict.fromkeys(names, 0.0)
    for name, value in conditions:
        number = _number(value)
        if name == "gap" and 0 <= number <= longest:
            gaps[value] = number
        elif name in names and math.isfinite(number):
            done[name] = number
        else:
            also = f", and by numbers what is done meanwhile: {', '.join(names)}" if names else ""
            raise Refused(f"{name}={value} is no condition of this jepa; give gap=TIME, from 0 to {longest:g}{also}")
    if not gaps or len({pair if pair[0] == "gap" else pair[0] for pair in conditions}) < len(conditions):
        raise Refused("a jepa predicts over one gap or more, each given once, as is what is done meanwhile: gap=3")
    z, parts = embed(model, cells, record)["X_jepa"], {}
    for value, gap in gaps.items():
        told = torch.tensor([gap, *done.values()]) / model.most
        ahead = model.model.predictor(z, {"action": told.expand(len(z), -1)})
        parts[value] = ad.AnnData(obs=cells.obs.assign(predicted_gap=gap), obsm={"X_jepa": ahead.numpy()})
    return ad.concat(parts, index_unique="-" if len(parts) > 1 else None)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan
