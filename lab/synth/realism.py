"""How real simulated counts look: gene by gene, cell by cell, and both at once, beside two halves of the real cells."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import NearestNeighbors

from lab import plot
from lab.data import check_counts
from lab.data.counts import in_csr
from lab.data.prepare import log_normalise
from lab.errors import Refused
from lab.metrics import classifier_test, components, energy_distance

from .measure import by_moments

GENES, CELLS = 100, 200  # whose correlations are taken: the most expressed genes, cells at random
NEIGHBOURS = 15


def realism_report(real: ad.AnnData, simulated: ad.AnnData, *, size: int = 1500, seed: int = 0) -> pd.DataFrame:
    """One row a property, after countsimQC (Soneson & Robinson 2018), in samples of one size, at most `size`: `value`,
    simulated against real cells, and `null`, as many other real cells against the same real ones.

    Both have counts in `layers["counts"]` and cells of one kind, such as controls. 0 is equal, but for the last rows:

    - Kolmogorov-Smirnov distances, over genes of `gene mean`, `gene variance`, `CV^2`, over cells of `library size` and
      `genes detected`, over pairs of `gene-gene correlation` and `cell-cell correlation` (Spearman);
    - biases, simulated less real, of the mean `zero fraction` and the mean `log10 variance`; `dispersion at a mean`,
      the mean absolute difference of log phi between genes of one mean;
    - energy distances of genes' points `mean and variance`, `mean and zeros`, in units of the pooled spread;
    - with the same genes, `classifier AUC` of boosted trees that see log1p(CP10k) of all genes and the library (0.5:
      cannot tell; up to 0.7 is good), and `neighbours mixed`, the share of 15 neighbours from the other set (0.5).
    """
    same = set(real.var_names) == set(simulated.var_names)
    x, y = _counts(real, real.var_names), _counts(simulated, real.var_names if same else simulated.var_names)
    n, random = min(len(x) // 2, len(y), size), np.random.default_rng(seed)
    if n < 50:
        raise Refused(f"{len(x)} real and {len(y)} simulated cells are too few; give 100 and 50 or more")
    order = random.permutation(len(x))
    x, other, y = x[order[:n]], x[order[n : 2 * n]], y[random.permutation(len(y))[:n]]
    rows = {"value": _rows(x, y, same, seed), "null": _rows(x, other, True, seed)}
    table = pd.DataFrame(rows).loc[list(rows["value"])]
    table.index.name = f"{n} cells of each"
    return table


def picture(real: ad.AnnData, simulated: ad.AnnData):
    """The figure to `realism_report`: variance, zeros and dispersion against the mean, a point a gene; distributions of
    library size, genes detected and gene-gene correlation. Returns the figure."""
    fig, axes = plt.subplots(2, 3, figsize=(7.2, 4.6))
    sets = {label: _counts(cells, cells.var_names) for label, cells in (("real", real), ("simulated", simulated))}
    genes = {label: _of_genes(x) for label, x in sets.items()}
    values = {
        label: _of_cells(x) | {"gene-gene correlation": _correlations(_most(_log(x)))} for label, x in sets.items()
    }
    for label, c in zip(sets, (plot.GREY, plot.CYCLE[1])):
        for ax, name in zip(axes[0], ("log10 variance", "zeros", "log phi")):
            ax.scatter(genes[label]["log10 mean"], genes[label][name], s=5, color=c, lw=0, alpha=0.6, label=label)
            ax.set(xlabel="log10 mean", ylabel=name)
        for ax, name in zip(axes[1], values[label]):
            bins = np.histogram_bin_edges(np.concatenate([values[each][name] for each in sets]), 25)
            ax.hist(values[label][name], bins=bins, density=True, histtype="step", color=c)
            ax.set(xlabel=name, yticks=[])
    axes[0, 0].legend(markerscale=2)
    return fig


def _log(counts) -> np.ndarray:
    """log1p(CP10k) of counts (N, G)."""
    return log_normalise(counts, counts.sum(1)).toarray()


def _counts(cells: ad.AnnData, genes) -> np.ndarray:
    check_counts(cells)
    return in_csr(cells[:, genes].layers["counts"], np.float32).toarray()


def _of_genes(x) -> dict[str, np.ndarray]:
    """Of the genes that were counted: their moments, and phi of the negative binomial beyond the depth's part."""
    x = x[:, x.sum(0) > 0].astype(float)
    size = x.sum(1, keepdims=True) / x.sum(1).mean()
    mean, variance = x.mean(0), x.var(0)
    phi = by_moments(x, size, mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_phi = np.where(phi > 0, np.log(phi), np.nan)
    return {
        "log10 mean": np.log10(mean),
        "log10 variance": np.log10(variance),
        "CV^2": variance / mean**2,
        "zeros": (x == 0).mean(0),
        "log phi": log_phi,
    }


def _of_cells(x) -> dict[str, np.ndarray]:
    return {"library size": x.sum(1), "genes detected": (x > 0).sum(1)}


def _most(x) -> np.ndarray:
    return x[:, np.argsort(-x.mean(0), kind="stable")[:GENES]]


def _correlations(x) -> np.ndarray:
    """Spearman correlations of the columns of x, all pairs."""
    ranks = stats.rankdata(x, axis=0)
    ranks = ranks[:, ranks.std(0) > 0]
    return np.corrcoef(ranks.T)[np.triu_indices(ranks.shape[1], 1)]


def _rows(x, y, same: bool, seed: int) -> dict[str, float]:
    ks = lambda a, b: float(stats.ks_2samp(a, b).statistic)
    (gx, gy), (cx, cy) = ((f(x), f(y)) for f in (_of_genes, _of_cells))
    log_x, log_y = _log(x), _log(y)
    some = np.random.default_rng(seed).permutation(len(x))[:CELLS]
    points = lambda name: (np.stack([g["log10 mean"], g[name]], 1) for g in (gx, gy))
    rows = {
        "gene mean": ks(gx["log10 mean"], gy["log10 mean"]),
        "gene variance": ks(gx["log10 variance"], gy["log10 variance"]),
        "CV^2": ks(gx["CV^2"], gy["CV^2"]),
        "zero fraction": float((y == 0).mean() - (x == 0).mean()),
        "log10 variance": float(gy["log10 variance"].mean() - gx["log10 variance"].mean()),
        "dispersion at a mean": _trend_apart(gx, gy),
        "gene-gene correlation": ks(_correlations(_most(log_x)), _correlations(_most(log_y))),
        **{name: ks(cx[name], cy[name]) for name in cx},
        "cell-cell correlation": ks(_correlations(log_x[some].T), _correlations(log_y[some].T)),
        "mean and variance": _energy(*points("log10 variance")),
        "mean and zeros": _energy(*points("zeros")),
    }
    if not same:
        return rows
    trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=0)
    with_size = (np.column_stack([z, np.log(counts.sum(1))]) for z, counts in ((log_x, x), (log_y, y)))
    return rows | {
        "classifier AUC": classifier_test(*with_size, trees, folds=3, seed=seed).auc,
        "neighbours mixed": _mixed(*components(log_x, log_y)),
    }


def _trend_apart(gx, gy) -> float:
    """Mean over bins of the mean, those with five genes of each, of how far medians of log phi are apart."""
    bins = np.quantile(np.concatenate([gx["log10 mean"], gy["log10 mean"]]), np.linspace(0, 1, 11))
    apart = []
    for low, high in zip(bins, bins[1:]):
        a, b = (g["log phi"][(g["log10 mean"] >= low) & (g["log10 mean"] <= high)] for g in (gx, gy))
        if min(np.isfinite(a).sum(), np.isfinite(b).sum()) >= 5:
            apart.append(abs(np.nanmedian(a) - np.nanmedian(b)))
    return float(np.mean(apart)) if apart else float("nan")


def _energy(a, b) -> float:
    spread = np.concatenate([a, b]).std(0)
    return energy_distance(a / spread, b / spread)


def _mixed(a, b) -> float:
    """Share of the nearest neighbours of a cell that are of the other set."""
    both, which = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(both).kneighbors(both, return_distance=False)[:, 1:]
    return float((which[near] != which[:, None]).mean())
