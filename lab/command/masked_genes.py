"""What `train jepa` trains: an encoder of cells, by which half of the genes tells where the other half stands."""

import anndata as ad
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lab import data, jepa
from lab.nets import Minibatch

KEEPS = {"variance": {"variance": 1.0, "covariance": 1.0}, "gaussian": {"gaussian": 10.0}}


class MaskedGenes(nn.Module):
    """An encoder that is one matrix, counts -> (B, Z): the two halves of a cell's genes are to have one embedding, and
    the terms `keeps` names hold it open."""

    def __init__(self, n_genes: int, n_latent: int, keeps: str):
        super().__init__()
        self.model = jepa.JEPA(nn.Linear(n_genes, n_latent), jepa.Predictor(nn.Identity()))
        self.terms = KEEPS[keeps]

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, Z) of whole cells of counts (B, G)."""
        return self.model.encoder(view(x, torch.ones_like(x)))

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`jepa.loss` of halves drawn anew; of a single cell, which has no spread, the prediction alone."""
        context, target = halves(b["x"])
        terms = self.terms if len(context) > 1 else {}
        return jepa.loss(self.model, {"context": context, "target": target}, **terms)


def view(x: Tensor, mask: Tensor) -> Tensor:
    """log(1 + counts over their mean) (B, G) of the genes that `mask` shows, divided by its share, and 0 for the
    others: half a cell and a whole one look alike."""
    least = 1 / x.shape[1]  # of a share, and of a mean, that are not 0
    share = mask.mean(1, keepdim=True).clamp(min=least)
    mean = ((x * mask).mean(1, keepdim=True) / share).clamp(min=least)
    return (x / mean).log1p() * mask / share


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The views of a random half of each cell's genes, and of the rest."""
    mask = (torch.rand_like(x) < 0.5).float()
    return view(x, mask), view(x, 1 - mask)


def results(model: MaskedGenes, cells) -> tuple[dict, dict]:
    """What of held-out halves is predicted beside a constant, whether the embedding has collapsed, and where all cells
    are."""
    on = lambda batches: (send_to_device(b, model.model.encoder.weight.device) for b in batches)
    pairs = [halves(b["x"]) for b in on(cells.tested)]
    one, other = (torch.cat([model.model.encoder(pair[i]) for pair in pairs]) for i in (0, 1))
    placed = torch.cat([model(b["x"]).cpu() for b in on(cells.everyone)])
    report = {
        "held-out prediction error": (one - other).square().mean().item(),
        "of a constant": (other - other.mean(0)).square().mean().item(),
    }
    collapse, files = standing(placed, cells)
    return report | collapse, files


def embed(model: nn.Module, cells: ad.AnnData, record: dict) -> dict[str, Tensor]:
    """Where each cell stands, in minibatches as in training."""
    batches = data.loader(cells, size=record["arguments"]["size"], shuffle=False)
    return {"X_jepa": torch.cat([model(b["x"]) for b in batches])}


def standing(placed: Tensor, cells) -> tuple[dict, dict]:
    """Whether embeddings (N, Z) of all cells have collapsed, and the file that says where they are."""
    report = {"spread": placed.std(0).mean().item(), "effective rank": jepa.effective_rank(placed)}
    return report, {"latent.h5ad": ad.AnnData(obs=cells.obs, obsm={"X_jepa": placed.numpy()}).write_h5ad}
