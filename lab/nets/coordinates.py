"""Where cells lie for a model of real numbers: a fitted map from counts to coordinates, and back."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lab.errors import Refused

PER = 1e4  # counts are brought to this total, as data.prepare does
GRID = 1000  # rates at which the mean logarithm is known; between them it is interpolated


class Coordinates(nn.Module):
    """Counts (B, G) <-> coordinates (B, D), fitted once and saved with a model's weights: it has buffers only.

    A cell's counts become log(1 + counts per 10,000 of these genes), centred. With `n` > 0 they are turned to their
    `n` principal components, divided by one number, so that the mean of the components' variances is 1: distances stay
    those between log-expressions, up to that factor, and noise that is round there is round here. With `n` = 0 they
    stay genes, D = G, each divided by its own standard deviation (a gene that never varies by 1).

    Nothing of a cell's depth is kept. Coming back therefore asks for it: `rates(z, log_library)` are expected counts,
    and `draw(z, log_library)` are counts. Components average the counting noise away, so a gene's log-expression there
    is a mean of logarithms, and its rate is the one whose Poisson counts have that mean, which is not the exponential;
    what training cells scatter about their rates beyond Poisson's gives each gene its negative binomial. Genes have
    the noise in them: they are exponentiated, and rounded.
    """

    def __init__(self, n_genes: int, n: int = 50):
        super().__init__()
        if not 0 <= n <= n_genes:
            raise ValueError(f"n={n}: from 1 to {n_genes} components, or 0 for the {n_genes} genes themselves")
        self.n_genes, self.n = n_genes, n
        self.register_buffer("mean", torch.full((n_genes,), torch.nan))
        self.register_buffer("scale", torch.ones(() if n else (n_genes,)))
        self.register_buffer("axes", torch.zeros(n, n_genes))
        self.register_buffer("library", torch.ones(()))  # mean total of training cells
        self.register_buffer("scatter", torch.zeros(n_genes))  # 1 / theta; 0 is Poisson

    @property
    def n_out(self) -> int:
        """D."""
        return self.n or self.n_genes

    @torch.no_grad()
    def fit(self, counts) -> "Coordinates":
        """Fit to training cells: counts (B, G) as a tensor, an array or a sparse matrix, or minibatches of such, in a
        list or anything else that can be read twice. Sums are in float64, (G, G) of them for components. Returns
        itself. Raises `Refused` for what are not counts, and for fewer cells than components need.
        """
        cells, total, square, depth = 0, 0.0, 0.0, 0.0
        for x in _batches(counts):
            y, depth = self._log(x).double().cpu(), depth + x.sum().item()
            if not cells:
                shift = y.mean(0)  # moments about a value that is near the mean lose no digits
            y = y - shift
            cells, total = cells + len(y), total + y.sum(0)
            square = square + (y.T @ y if self.n else y.square().sum(0))
        if cells <= max(self.n, 1):
            raise Refused(f"{cells} cells have at most {max(cells - 1, 0)} components; take fewer than {self.n or 2}")
        mean = total / cells
        self.mean.copy_(shift + mean)
        self.library.fill_(depth / cells)
        if not self.n:
            std = (square / cells - mean.square()).clamp(min=0).sqrt()
            self.scale.copy_(torch.where(std > 1e-6, std, 1.0))
            return self
        var, axes = torch.linalg.eigh((square - cells * torch.outer(mean, mean)) / (cells - 1))
        var, axes = var.flip(0)[: self.n], axes.T.flip(0)[: self.n]
        if var[-1] <= 1e-9 * var[0]:
            raise Refused(f"these cells vary along fewer than {self.n} components; take fewer")
        self.axes.copy_(axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign())  # the largest weight is > 0
        self.scale.copy_(var.mean().sqrt())
        self._fit_scatter(counts)
        return self

    def forward(self, counts) -> Tensor:
        """Coordinates (B, D) of counts (B, G). Raises `Refused` before `fit`, and for what are not counts."""
        y = self._log(counts) - self._fitted()
        return (y @ self.axes.T if self.n else y) / self.scale

    def log_expression(self, z: Tensor) -> Tensor:
        """log(1 + counts per 10,000) (B, G) at coordinates (B, D): a real number for each gene, also below 0."""
        y = z * self.scale
        return self._fitted() + (y @ self.axes if self.n else y)

    def rates(self, z: Tensor, log_library: Tensor) -> Tensor:
        """Expected counts (B, G) at coordinates (B, D) of cells whose totals have the logarithms (B, 1): none below 0,
        their sum the total. Raises `Refused` where no gene is left above 0."""
        y = self.log_expression(z)
        share = self._rate_of(y) if self.n else y.expm1().clamp(min=0)  # (B, G)
        total = share.sum(-1, keepdim=True)
        if not (total.isfinite() & (total > 0)).all():
            raise Refused("some coordinates lie where no gene has counts: the sampler has diverged; take more steps")
        return log_library.exp() * share / total

    @torch.no_grad()
    def draw(self, z: Tensor, log_library: Tensor) -> Tensor:
        """Counts (B, G) at coordinates (B, D), as float: negative binomial about the rates, or, of genes, rounded."""
        rates = self.rates(z, log_library)
        if not self.n:
            return rates.round()
        theta = 1 / self.scatter.clamp(min=1e-6).expand_as(rates)
        return torch.poisson(rates * torch.distributions.Gamma(theta, theta).sample())

    def _rate_of(self, y: Tensor) -> Tensor:
        """The rate whose Poisson counts, in a cell of the mean depth, have the mean log-expression y; 0 below 0."""
        rate, mean = (f.to(y) for f in _mean_logs(self.library.double().cpu()))
        y = y.clamp(min=0, max=mean[-1].item()).contiguous()
        k = torch.searchsorted(mean, y).clamp(1, len(mean) - 1)
        return rate[k - 1] + (y - mean[k - 1]) / (mean[k] - mean[k - 1]) * (rate[k] - rate[k - 1])

    def _fit_scatter(self, counts) -> None:
        """Moments: the squares of what is left of counts, beyond Poisson's, over those of their rates."""
        beyond, square = 0.0, 0.0
        for x in map(_tensor, _batches(counts)):
            x = x.to(self.mean)
            rates = self.rates(self(x), x.sum(1, keepdim=True).log())
            beyond = beyond + ((x - rates).square() - rates).double().sum(0)
            square = square + rates.double().square().sum(0)
        if not torch.is_tensor(square):
            raise Refused("these minibatches can be read only once, and fitting reads twice; pass a list or a loader")
        self.scatter.copy_(torch.where(square > 0, beyond / square, 0).clamp(min=0))

    def _fitted(self) -> Tensor:
        if self.mean.isnan().any():
            raise Refused("these coordinates know no cells yet; call fit(counts) on training cells first")
        return self.mean

    def _log(self, counts) -> Tensor:
        """log(1 + counts per 10,000) (B, G), as data.log_normalise; 0 for a cell without counts."""
        x = _tensor(counts).to(self.mean)
        if x.dim() != 2 or x.shape[1] != self.n_genes:
            raise Refused(f"counts are cells x {self.n_genes} genes; got {tuple(x.shape)}")
        if not (x.isfinite() & (x >= 0) & (x == x.round())).all():
            raise Refused("coordinates are made of raw counts, whole numbers from 0 up; pass layers['counts']")
        return (PER * x / x.sum(1, keepdim=True).clamp(min=1)).log1p()


def _mean_logs(library: Tensor) -> tuple[Tensor, Tensor]:
    """Rates (GRID + 1,) from 0 to the library, and E log(1 + 10,000 X / library) for X Poisson of each."""
    rate = torch.cat([torch.zeros(1).double(), torch.logspace(-4, np.log10(max(library.item(), 1)), GRID).double()])
    few = rate[rate < 100][:, None]
    x = torch.arange(256).double()
    p = (torch.xlogy(x, few) - few - (x + 1).lgamma()).exp()
    many = rate[rate >= 100]  # there the noise moves the mean logarithm by 1 / (2 rate)
    mean = torch.cat([p @ (PER * x / library).log1p(), (PER * many / library).log1p() - 1 / (2 * many)])
    return rate, mean


def _tensor(counts) -> Tensor:
    counts = counts.toarray() if hasattr(counts, "toarray") else counts
    return counts if torch.is_tensor(counts) else torch.as_tensor(np.asarray(counts))


def _batches(counts) -> Iterable | Iterator:
    """The minibatches of one matrix, or of an iterable of matrices."""
    return (counts,) if hasattr(counts, "shape") or not isinstance(counts, Iterable) else counts
