"""Distances between two samples: arrays (N, D) and (M, D) in, dense or sparse, float out. All three are 0 in
expectation only for equal laws (the Fréchet distance: for equal means and covariances).

Pairs are taken block by block: memory does not grow with their number, and every core works. In float64, from
|a - b|^2 = |a|^2 + |b|^2 - 2 a.b about the common mean; squared distances are right to 1e-15 of the samples' spread.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

BLOCK = 2**19  # pairs at a time: 4 MB, which stay in a core's cache
LOOK = 2000  # points of each sample that set mmd's bandwidth


def energy_distance(x, y) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, Euclidean, unbiased (Székely & Rizzo 2013); in the units of x.

    A fair estimate of 0 falls on both sides of 0. scipy.stats.energy_distance is the square root of the biased version.
    """
    x, y = centred(x, y)
    return 2 * _mean(torch.sqrt_, x, y) - _mean(torch.sqrt_, x) - _mean(torch.sqrt_, y)


def mmd(x, y, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with kernel exp(-|x - y|^2 / (2 bandwidth^2)), unbiased (Gretton et al. 2012,
    eq. 3).

    The default bandwidth is the median distance between points of x and points of y, at most 2,000 of each, evenly
    spaced.
    """
    x, y = centred(x, y)
    if bandwidth is None:
        x_, y_ = (z[np.linspace(0, len(z) - 1, min(len(z), LOOK)).round()] for z in (x, y))
        bandwidth = float(np.median(squared(x_, y_).sqrt_().numpy()))
    if not bandwidth > 0:
        raise ValueError(f"the kernel needs a bandwidth above 0, got {bandwidth}: are all points the same?")

    def kernel(squared: Tensor) -> Tensor:
        return squared.mul_(-1 / (2 * bandwidth**2)).exp_()

    return _mean(kernel, x) + _mean(kernel, y) - 2 * _mean(kernel, x, y)


def frechet_distance(x, y) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^{1/2}): squared Wasserstein-2 distance between the Gaussians with the samples'
    moments (Dowson & Landau 1982). Biased upwards by O(1/N): compare at equal N, beside two halves of the real data."""
    x, y = _samples(x, y)
    r, r_ = (np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y))  # S = R^T R
    cross = np.linalg.svd(r @ r_.T, compute_uv=False).sum()  # tr (S S')^{1/2}, with no root of a matrix that has none
    return max(float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(r).sum() + np.square(r_).sum() - 2 * cross), 0)


def centred(x, y) -> tuple[Tensor, Tensor]:
    """Two samples about their common mean, float64; ValueError, one sentence, where they are not two samples."""
    x, y = _samples(x, y)
    mean = (x.mean(0) + y.mean(0)) / 2
    return torch.from_numpy(x - mean), torch.from_numpy(y - mean)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 (N, M)."""
    return (_left(a) @ _right(b)).clamp_(min=0)


def _left(a: Tensor) -> Tensor:
    return torch.cat([-2 * a, a.square().sum(1, keepdim=True), a.new_ones(len(a), 1)], 1)  # (N, D + 2)


def _right(b: Tensor) -> Tensor:
    return torch.cat([b, b.new_ones(len(b), 1), b.square().sum(1, keepdim=True)], 1).T.contiguous()  # (D + 2, M)


def _mean(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor | None = None) -> float:
    """Mean of f(|a - b|^2), which may be computed in place, over pairs of rows: one of x and one of y, or two
    different ones of x."""
    left, right, total = _left(x), _right(x if y is None else y), 0.0
    rows = max(BLOCK // right.shape[1], 1)
    room = x.new_empty(rows * right.shape[1])
    for start in range(0, len(x), rows):
        a = left[start : start + rows]
        b = right if y is not None else right[:, start:]  # each pair of x once
        values = f(torch.mm(a, b, out=room[: len(a) * b.shape[1]].view(len(a), -1)).clamp_(min=0))
        total += values.sum().item()
        if y is None:  # a block's own pairs stand on both sides of the diagonal, all others count twice
            own = values[:, : len(a)]
            total += (values.sum() - own.sum() - own.diagonal().sum()).item()
    return total / (len(x) * (len(x) - 1 if y is None else len(y)))


def _samples(x, y):
    x, y = (np.asarray(a.toarray() if sparse.issparse(a) else a, dtype=float) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two samples are arrays (N, D) and (M, D) with the same D; got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < 2:
        raise ValueError("a distance between samples needs at least two points in each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the samples hold NaN or infinite values; drop or repair those cells first")
    return x, y
