"""Message passing over a gene graph (GEARS; Roohani, Huang & Leskovec 2024): a gene that nobody has perturbed borrows
what is known of its neighbours."""

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.baselines.perturb import parts
from lab.data import check_counts
from lab.data.prepare import log_normalise
from lab.errors import Refused
from lab.nets import Minibatch, mlp

from .design import Design, cells_of
from .graphs import checked


class GEARS(nn.Module):
    """The shift of log expression, log1p of counts per 10,000, that perturbing genes brings: f(sum of their h) - f(0),
    where h are vectors of genes after `n_layers` rounds in which each becomes a weighted mean of its own and its
    neighbours', and f a network to all measured genes. With 0 layers, the ablation, there is no graph.

    `cells` are controls and perturbed cells, as `Design` takes them. Any gene of `graph` can be predicted, also one
    that no training cell has; combinations add up before f, which can bend their sum.

    Simplified. GEARS adds its sum to a vector of each measured gene, itself smoothed over a co-expression graph, reads
    genes off one by one and then through a layer across all; here f is one network. Its loss weighs large errors and
    wrong directions more; here it is squared error. It pairs each cell with a random control; here with their mean,
    which has the same minimum. Edges have no weights.
    """

    def __init__(
        self,
        cells: ad.AnnData,
        graph: pd.DataFrame,
        *,
        n_layers: int = 1,
        n_hidden: int = 32,
        by: str = "perturbation",
        control: str = "control",
        separator: str = "+",
    ):
        super().__init__()
        if n_layers < 0:
            raise Refused(f"n_layers={n_layers}: rounds of messages, 0 for none")
        self.design = Design(cells, by=by, control=control, separator=separator)
        self.genes, table = list(graph.index.astype(str)), checked(graph) + np.eye(len(graph))
        of = [self.row(name) for name in self.design.labels]
        self.register_buffer("of_label", torch.stack(of))  # (L, V)
        root = np.sqrt(table.sum(1))
        self.register_buffer("messages", torch.tensor(table / root / root[:, None], dtype=torch.float32))  # (V, V)
        is_control = (cells.obs[by].astype(str) == control).to_numpy()
        start = torch.tensor(log_expression(cells[is_control]).mean(0))
        self.register_buffer("start", start)  # (G,)
        self.vectors = nn.Parameter(torch.randn(len(graph), n_hidden))
        self.layers = nn.ModuleList(nn.Linear(n_hidden, n_hidden) for _ in range(n_layers))
        self.out = mlp(n_hidden, n_hidden, cells.n_vars)

    def row(self, name: str) -> Tensor:
        """Which genes (V,) a label perturbs; `Refused` for one that is no gene of the graph."""
        of = () if name == self.design.control else parts(name, self.design.separator)
        if missing := [part for part in of if part not in self.genes]:
            raise Refused(
                f"{missing[0]!r} is no gene of the graph, which has {len(self.genes)}; add it, or leave out {name!r}"
            )
        return torch.tensor([float(gene in of) for gene in self.genes])

    def nodes(self) -> Tensor:
        """Vectors of genes (V, H) after all rounds of messages."""
        h = self.vectors
        for i, layer in enumerate(self.layers):
            h = self.messages @ layer(h if i == 0 else h.relu())
        return h

    def forward(self, genes: Tensor) -> Tensor:
        """Shifts (B, G) of perturbed genes (B, V), 0 or 1 each; none where nothing is perturbed."""
        return self.out(genes @ self.nodes()) - self.out(torch.zeros_like(self.vectors[:1]))

    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """Control cells under a perturbation, in X their log expression and the shift: all move alike, and nothing is
        drawn, so that `seed` changes nothing."""
        self.design.check_genes(control)
        with torch.no_grad():
            shift = self(self.row(name).to(self.start)[None]).cpu().numpy()
        return cells_of(control, name, self.design.by, X=log_expression(control) + shift)


def loss(model: GEARS, b: Minibatch) -> dict[str, Tensor]:
    """Squared error of the shift from the controls' mean, summed over genes, the mean over cells: its minimum is the
    cells' variance. `b` is of `model.design.loader`."""
    total = b["n_counts"][:, None] if "n_counts" in b else b["log_library"].exp()
    y = (1e4 * b["x"] / total).log1p() - model.start  # (B, G)
    return {"loss": (y - model(model.of_label[b[model.design.by]])).square().sum(1).mean()}


def log_expression(cells: ad.AnnData) -> np.ndarray:
    """log1p of counts per 10,000 (B, G), by the cells' full totals `n_counts` where they have them, as `evaluate`."""
    sums = check_counts(cells)
    return log_normalise(cells.layers["counts"], cells.obs["n_counts"] if "n_counts" in cells.obs else sums).toarray()
