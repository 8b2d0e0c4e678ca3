"""One sequence a perturbation: a condition token, then every gene, read by BiMamba in both directions."""

from collections.abc import Iterable

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.errors import Refused
from lab.nets import Minibatch
from lab.ssm import BiMamba

from .conditions import Conditions
from .genes import GeneTokens
from .heads import CountLaw, LogExpression
from .pathways import log_counts


class Predictor(nn.Module):
    """What a perturbation does to every gene. The sequence is (G + 1, W): the condition token, then `tokens` in their
    order, the perturbed gene's with a mark; `n_layers` times h + BiMamba(norm(h)); and a linear map of each gene's
    state, which begins at 0, to the numbers that `head`, fitted to the training cells, asks for.

    `design` is `perturb.Design` of the training cells, and the model keeps the protocol of `lab.perturb`: `loss` over
    `model.design.loader(cells)`, then `predict`. `descriptors`, `marks` and `drop` are `Conditions`'. The network is
    told nothing of a cell but its perturbation: cells that share one share a pass.
    """

    def __init__(
        self,
        design,
        tokens: GeneTokens,
        head: LogExpression | CountLaw,
        *,
        n_layers: int = 2,
        d_state: int = 16,
        descriptors: pd.DataFrame | None = None,
        marks: bool = True,
        drop: float = 0.5,
        backend: str = "auto",
    ):
        super().__init__()
        if n_layers < 1:
            raise Refused(f"n_layers={n_layers}: one pass over the sequence or more")
        if not tokens.genes.equals(design.genes):
            raise Refused(f"tokens are of {len(tokens.genes)} genes that are not the {len(design.genes)} of the cells")
        self.design, self.tokens, self.head, width = design, tokens, head, tokens.width
        self.conditions = Conditions(design, tokens.genes, width, descriptors=descriptors, marks=marks, drop=drop)
        self.layers = nn.ModuleList(BiMamba(width, d_state, backend=backend) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers + 1))
        self.out = nn.Linear(width, head.n_out)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, amounts: Tensor) -> Tensor:
        """What `head` is told of each gene, (U, G, n_out), under amounts (U, P) of the parts of perturbations."""
        order = self.tokens.order
        marks = self.conditions.marked(amounts, len(order))[..., None] * self.conditions.mark
        h = torch.cat([self.conditions(amounts)[:, None], (self.tokens() + marks)[:, order]], 1)  # (U, G + 1, W)
        told = self.out(self.read(h)[:, 1:])[:, order.argsort()]
        return told + self.head.begun((amounts != 0).any(1))

    def read(self, h: Tensor) -> Tensor:
        """States (U, L, W) of tokens (U, L, W), each of which has seen all others."""
        for norm, layer in zip(self.norms, self.layers):
            h = h + layer(norm(h))
        return self.norms[-1](h)

    def told(self, b: Minibatch) -> Tensor:
        """The same of the cells of a minibatch of `design.loader`, (B, G, n_out): those that share a perturbation share
        a pass."""
        amounts, which = self.conditions.amounts(self.design, b).unique(dim=0, return_inverse=True)
        return self(amounts)[which]

    @torch.no_grad()
    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """`control` cells under the perturbation `name`, which may be of a gene, or have a descriptor, that no training
        cell has: AnnData as `head` has it, counts in `layers["counts"]` or log expression in X."""
        self.eval()
        self.design.check_genes(control)
        told = self(self.conditions.row(name))
        return self.head.predict(self.design, control, name, told, seed)


def loss(model: Predictor, b: Minibatch) -> dict[str, Tensor]:
    """The head's loss of a minibatch of `model.design.loader`."""
    return model.head.loss(model.told(b), b)


@torch.no_grad()
def profiles(model: Predictor, batches: Iterable[Minibatch]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean log expression, labels x genes, predicted of the cells in `batches` (of `model.design.loader`) and as it is
    in them: what `perturb.r2` compares, with the mean of the true ones in training. Counts are drawn for it."""
    model.eval()
    predicted = true = cells = 0
    for b in batches:
        one = nn.functional.one_hot(b[model.design.by], len(model.design.labels)).double().T  # (L, B)
        predicted = predicted + one @ model.head.log_mean(model.told(b), b).double()
        true, cells = true + one @ log_counts(b).double(), cells + one.sum(1, keepdim=True)
    there = (cells[:, 0] > 0).cpu().numpy()
    names = np.array(model.design.labels)[there]
    table = lambda sums: pd.DataFrame((sums / cells).cpu().numpy()[there], names, model.design.genes)
    return table(predicted), table(true)
