"""Two ways of saying what becomes of a gene: a shift of its log expression, or the law of its counts.

Both begin at what has to be beaten: in perturbed cells at the mean of all training perturbations, each of one weight.
"""

from collections.abc import Iterable

import anndata as ad
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lab.dist import negative_binomial
from lab.errors import Refused
from lab.nets import Minibatch

from .pathways import log_counts, log_expression

DRAWS = 20  # cells behind an expected log expression
FLOOR = 0.03  # of log expression, for genes that controls hardly have


class Head(nn.Module):
    """What is the same of both: the training controls' level of each gene, `start` (G,), and the spread of what is
    measured among them, `std` (G,); how far the mean of training perturbations is from their level, `common` (G,); and
    whether cells had full totals, obs["n_counts"]."""

    n_out, unit = 1, 1.0

    def __init__(self, n_genes: int):
        super().__init__()
        self.register_buffer("start", torch.full((n_genes,), torch.nan))
        self.register_buffer("std", torch.ones(n_genes))
        self.register_buffer("common", torch.zeros(n_genes))
        self.register_buffer("full", torch.tensor(False))

    @torch.no_grad()
    def fit(self, design, batches: Iterable[Minibatch]) -> "Head":
        """Fit these to minibatches of training cells with labels of `design`, and return itself. Perturbations of which
        there is no cell have no say."""
        cells = sums = squares = torch.zeros(())
        for b in batches:
            one, y = nn.functional.one_hot(b[design.by], len(design.labels)).double(), self.measured(b).double()
            cells, sums, squares = cells + one.sum(0), sums + one.T @ y, squares + one[:, 0] @ y.square()
            self.full.fill_("n_counts" in b)
        if not cells.dim() or not cells[0] or not cells[1:].any():
            raise Refused(
                "minibatches hold no control, or nothing else; fit to all training cells, model.design.loader(cells)"
            )
        level = self.level(sums[cells > 0], cells[cells > 0, None])  # (L, G), without labels that have no cell
        self.start.copy_(level[0]), self.common.copy_(level[1:].mean(0) - level[0])
        self.std.copy_((squares / cells[0] - (sums[0] / cells[0]).square()).clamp(min=0).sqrt())
        return self

    def begun(self, perturbed: Tensor) -> Tensor:
        """Where each of U conditions begins, (U, G, n_out); `perturbed` (U,) is False for the control."""
        if self.start.isnan().any():
            raise Refused(
                "this head knows no cells yet; call fit(design, design.loader(cells)) on training cells first"
            )
        common = perturbed[:, None] * self.common / self.unit
        return nn.functional.pad(common[..., None], (0, self.n_out - 1))


class LogExpression(Head):
    """One number a gene: how far log1p of counts per 10,000 is from the controls' mean, as a share of that mean, the
    unit in which a quiet gene has as far to fall as a loud one.

    Its error is counted in units of the gene's spread among controls: otherwise a few loud genes are all that the loss
    sees, while an R2 by gene gives each the same say. `FLOOR` is the least of both units.
    """

    @property
    def unit(self) -> Tensor:
        return self.start.clamp(min=FLOOR)

    def mean(self, told: Tensor) -> Tensor:
        """Expected log expression (N, G) of told (N, G, 1)."""
        return self.start + self.unit * told.squeeze(-1)

    @staticmethod
    def measured(b: Minibatch) -> Tensor:
        """What is averaged over the cells of a label, (B, G)."""
        return log_counts(b)

    @staticmethod
    def level(sums: Tensor, cells: Tensor) -> Tensor:
        """The mean (L, G) of `cells` cells (L, 1)."""
        return sums / cells

    def loss(self, told: Tensor, b: Minibatch) -> dict[str, Tensor]:
        """`error` of told (B, G, 1), the mean over cells."""
        return {"loss": self.error(told, log_counts(b))}

    def error(self, told: Tensor, y: Tensor) -> Tensor:
        """Squared error of told (N, G, 1) beside log expression y (N, G), in units of std^2, summed over genes, the
        mean over rows. Of cells it is that of their mean and a constant, their variance."""
        return ((y - self.mean(told)) / self.std.clamp(min=FLOOR)).square().sum(1).mean()

    def log_mean(self, told: Tensor, b: Minibatch) -> Tensor:
        """Expected log expression (B, G) of cells as deep as those of `b`."""
        return self.mean(told)

    def predict(self, design, control: ad.AnnData, name: str, told: Tensor, seed: int) -> ad.AnnData:
        """Control cells, in X their log expression and the shift: all move alike, and `seed` changes nothing. `Refused`
        for cells whose totals are of another kind than those of training."""
        if self.full != ("n_counts" in control.obs):
            had, have = ("had", "have none") if self.full else ("had no", "have it: remove it")
            raise Refused(f"training cells {had} obs['n_counts'], the full totals, and these {have}; give both alike")
        cells = design.predicted(control, name, lambda b: b["x"], seed=seed)
        del cells.layers["counts"]
        cells.X = log_expression(control) + (self.unit * told.squeeze(-1)).cpu().numpy()
        return cells


class CountLaw(Head):
    """Two numbers a gene: x ~ NB(library softmax(start + first), theta exp(second)), `start` the logarithm of its share
    of the controls' counts, half a count where there is none, and a theta of its own."""

    n_out = 2

    def __init__(self, n_genes: int):
        super().__init__(n_genes)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))

    @staticmethod
    def measured(b: Minibatch) -> Tensor:
        """What is added over the cells of a label, (B, G)."""
        return b["x"]

    @staticmethod
    def level(sums: Tensor, cells: Tensor) -> Tensor:
        """Logarithms of shares of counts (L, G)."""
        return (sums.clamp(min=0.5) / sums.sum(1, keepdim=True)).log()

    def law(self, told: Tensor, log_library: Tensor) -> Distribution:
        """Of counts (B, G), told (B, G, 2), log_library (B, 1)."""
        shift, scatter = told.unbind(-1)
        mean = log_library.exp() * (self.start + shift).softmax(-1) + 1e-30  # a share may round to 0
        return Independent(negative_binomial(mean, (self.log_theta + scatter).exp(), validate_args=False), 1)

    def loss(self, told: Tensor, b: Minibatch) -> dict[str, Tensor]:
        """-log NB of the counts, summed over genes, the mean over cells, in nats."""
        return {"loss": -self.law(told, b["log_library"]).log_prob(b["x"]).mean()}

    def log_mean(self, told: Tensor, b: Minibatch) -> Tensor:
        """Expected log expression (B, G) of cells as deep as those of `b`: of `DRAWS` cells each, since the mean of a
        logarithm is not the logarithm of a mean."""
        drawn = [self.law(told, b["log_library"]).sample() for _ in range(DRAWS)]
        own = lambda x: b | {"x": x, "log_library": x.sum(1, keepdim=True).clamp(min=1).log()}
        return torch.stack([log_counts(own(x)) for x in drawn]).mean(0)

    def predict(self, design, control: ad.AnnData, name: str, told: Tensor, seed: int) -> ad.AnnData:
        """As many new cells as controls, with their depths: nothing else of a control is in what it becomes."""
        draw = lambda b: self.law(told.expand(len(b["x"]), -1, -1), b["log_library"]).sample()
        return design.predicted(control, name, draw, seed=seed)
