"""From real control cells to the knobs with which `data.perturbseq` simulates cells like them."""

import anndata as ad
import numpy as np
import pandas as pd

from lab.data import check_counts
from lab.data.counts import in_csr
from lab.errors import Refused

FEWEST = 100  # cells without which variances say little
SCATTER = 0.5  # log-sd of genes' dispersions about their trend, in Kang's cells and PBMC


def measured(cells: ad.AnnData, *, n_modules: int = 8) -> dict:
    """The knobs of `data.perturbseq` by which its control cells are like `cells`: `perturbseq(**measured(cells))`.

    `cells` are of one kind and unperturbed, counts in `layers["counts"]`; a cell's library is its `obs["n_counts"]`
    where that counts more genes, else a sum over these genes in which noisy ones weigh less. Measured are means;
    dispersions by moments, drawn towards their trend where few counts tell; the log-sd of libraries, less what counting
    adds; and as `gene_sets` the loadings of up to `n_modules` modules, the principal components of Pearson residuals
    that exceed those of genes shuffled one by one. Cell cycle and batches are among these, so their own knobs are 0.
    """
    here = check_counts(cells)
    total = np.asarray(cells.obs.get("n_counts", here), float)
    if cells.n_obs < FEWEST:
        raise Refused(f"{cells.n_obs} cells are too few to measure a gene's spread; give {FEWEST} or more")
    x = in_csr(cells.layers["counts"], np.float64).toarray()
    names, x = cells.var_names[x.sum(0) > 0], x[:, x.sum(0) > 0]
    mean, size, outside, noise = x.mean(0), total / total.mean(), 1 - here.sum() / total.sum(), 1 / total.mean()
    phi, trend = dispersions(x, size[:, None], mean)
    if outside < 0.01:  # one gene that is high and noisy would else set the size of all cells
        weight = 1 / (1 + phi * mean)  # of least variance for the sum of negative binomial counts
        size, noise = x @ weight / (mean @ weight), 1 / (mean @ weight)
        phi, trend = dispersions(x, size[:, None], mean)
    size = size[:, None]
    loadings = _loadings(x, size, mean, phi, n_modules)
    modules = pd.DataFrame(loadings, names, [f"module {i + 1}" for i in range(loadings.shape[1])])
    found = modules.shape[1] > 0  # without, `perturbseq` draws modules for its perturbations, and cells do not use them
    return {
        "expression": pd.DataFrame({"mean": mean, "phi": phi}, names),
        "gene_sets": modules if found else None,
        "dispersion": (*trend, 0.0),
        "depth_std": float(np.sqrt(max(np.log(size[size > 0]).var() - noise, 0))),
        "outside": float(outside),
        "state": float(found),
        "cycle": 0.0,
        "batch_std": 0.0,
    }


def dispersions(x, size, mean) -> tuple[np.ndarray, tuple[float, float]]:
    """phi (G,) in Var = mean + phi mean^2 at a cell's `size`, and its trend (a, b), phi = a mean^b."""
    moment = by_moments(x, size, mean)
    error = np.sqrt(2 / len(x)) * (1 / mean + np.maximum(moment, 0.1))  # of a variance of Gaussians, at least
    sure = (moment > 2 * error) & (mean > 0.05)
    if sure.sum() < 5:
        return np.full(len(mean), 0.5), (0.5, 0.0)
    b, log_a = np.polyfit(np.log(mean[sure]), np.log(moment[sure]), 1)
    trend = np.exp(log_a) * np.maximum(mean, 0.05) ** b
    weight = (SCATTER * trend) ** 2 / ((SCATTER * trend) ** 2 + error**2)
    return np.maximum(weight * moment + (1 - weight) * trend, 0.02), (float(np.exp(log_a)), float(b))


def by_moments(x, size, mean) -> np.ndarray:
    """phi (G,) of counts (N, G) from their variance about `size` (N, 1) times `mean` (G,)."""
    return (((x - size * mean) ** 2).mean(0) - mean) / ((size**2).mean() * mean**2)


def _loadings(x, size, mean, phi, n) -> np.ndarray:
    """W (G, K) such that a cell's log rate moves by W u, u ~ N(0, I)."""
    std = np.sqrt(mean + phi * mean**2)
    residual = (x - size * mean) / np.sqrt(size * mean + phi * (size * mean) ** 2)
    residual = np.clip(residual, -np.sqrt(len(x)), np.sqrt(len(x)))
    residual -= residual.mean(0)
    values, vectors = _components(residual, n)
    shuffled = np.random.default_rng(0).permuted(residual, axis=0)
    above = values > 1.05 * _components(shuffled, 1)[0][0]
    values, vectors = values[above], vectors[:, above]
    noise = np.sqrt(values / len(x)) / np.maximum(values - 1, 1e-9)  # of a component's entries
    vectors = np.where(np.abs(vectors) > 2 * noise, vectors, 0)
    w = vectors * np.sqrt(np.maximum(values - 1, 0)) * (std / mean)[:, None]
    most = 0.9 * np.log1p(phi)[:, None]  # of a gene's log variance may be shared
    return w * np.sqrt(np.minimum(1, most / np.maximum((w**2).sum(1, keepdims=True), 1e-12)))


def _components(residual, n) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(residual.T @ residual / len(residual))
    return values[::-1][:n], vectors[:, ::-1][:, :n]
