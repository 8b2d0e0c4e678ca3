"""Distances between two samples: arrays (N, D) and (M, D) in, dense or sparse, float out. All three are 0 in
expectation only for equal laws (the Fréchet distance: for equal means and covariances)."""

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist, pdist


def energy_distance(x, y) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, Euclidean, unbiased (Székely & Rizzo 2013); in the units of x.

    A fair estimate of 0 falls on both sides of 0. scipy.stats.energy_distance is the square root of the biased version.
    """
    x, y = _samples(x, y)
    return float(2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def mmd(x, y, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with kernel exp(-|x - y|^2 / (2 bandwidth^2)), unbiased (Gretton et al. 2012,
    eq. 3).

    The default bandwidth is the median distance between the points of x and those of y.
    """
    x, y = _samples(x, y)
    between = cdist(x, y, "sqeuclidean")
    bandwidth = np.median(np.sqrt(between)) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise ValueError(f"the kernel needs a bandwidth above 0, got {bandwidth}: are all points the same?")

    def kernel(squared):
        return np.exp(-squared / (2 * bandwidth**2)).mean()

    return float(kernel(pdist(x, "sqeuclidean")) + kernel(pdist(y, "sqeuclidean")) - 2 * kernel(between))


def frechet_distance(x, y) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^{1/2}): squared Wasserstein-2 distance between the Gaussians with the samples'
    moments (Dowson & Landau 1982). Biased upwards by O(1/N): compare at equal N, beside two halves of the real data."""
    x, y = _samples(x, y)
    r, r_ = (np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y))  # S = R^T R
    cross = np.linalg.svd(r @ r_.T, compute_uv=False).sum()  # tr (S S')^{1/2}, with no root of a matrix that has none
    return max(float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(r).sum() + np.square(r_).sum() - 2 * cross), 0)


def _samples(x, y):
    x, y = (np.asarray(a.toarray() if sparse.issparse(a) else a, dtype=float) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two samples are arrays (N, D) and (M, D) with the same D; got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < 2:
        raise ValueError("a distance between samples needs at least two points in each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the samples hold NaN or infinite values; drop or repair those cells first")
    return x, y
