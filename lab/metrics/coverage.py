"""Whether samples lie where real cells lie, whether they reach all of them, and whether they are the training cells."""

from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lab.errors import Refused

from .distances import centred, squared


class Coverage(NamedTuple):
    """Shares between 0 and 1."""

    precision: float
    recall: float


def coverage(real, samples, k: int = 5) -> Coverage:
    """Precision: the share of samples within reach of a real cell, its distance to the k-th nearest other real cell.
    Recall: the share of real cells within reach of a sample (Kynkäänniemi et al. 2019, eq. 1-3).

    Arrays (N, D) and (M, D). Between samples of one law neither is 1, and both depend on N and M: hold them against
    two real samples of these sizes.
    """
    x, y = centred(real, samples)
    if not 1 <= k < min(len(x), len(y)):
        raise Refused(f"k={k}: the k-th nearest other cell exists for k from 1 to {min(len(x), len(y)) - 1}")
    apart = squared(x, y)
    return Coverage(
        (apart <= _reach(x, k)[:, None]).any(0).double().mean().item(),
        (apart <= _reach(y, k)[None]).any(1).double().mean().item(),
    )


def _reach(x: Tensor, k: int) -> Tensor:
    """Squared distance (N,) to the k-th nearest other point."""
    return squared(x, x).fill_diagonal_(0).kthvalue(k + 1, dim=1).values


def copies(samples, train) -> np.ndarray:
    """Which samples (M,) equal a training cell in every feature, bit for bit once both are float32."""
    samples, train = (np.ascontiguousarray(a, np.float32) + 0 for a in _dense(samples, train))  # + 0: no -0
    known = {row.tobytes() for row in train}
    return np.array([row.tobytes() in known for row in samples])


def closer_to_training(samples, train, held_out) -> float:
    """The share of samples that lie nearer to a training cell than to any held-out one; ties count half.

    With as many training cells as held-out ones, drawn alike, it is 1/2 for a model that has learned the law and
    nothing of its cells, with binomial noise. Raises `Refused` where the numbers differ.
    """
    samples, train, held_out = _dense(samples, train, held_out)
    if len(train) != len(held_out):
        raise Refused(
            f"{len(train)} training cells and {len(held_out)} held-out ones: the larger set is nearer by its number "
            "alone; take as many of each"
        )
    near = [NearestNeighbors(n_neighbors=1, algorithm="brute").fit(a).kneighbors(samples)[0] for a in (train, held_out)]
    return float(((near[0] < near[1]) + (near[0] == near[1]) / 2).mean())


def _dense(*sets) -> list[np.ndarray]:
    """The sets as float64 arrays, or ValueError where they are not cells of the same features."""
    arrays = [np.asarray(a.toarray() if hasattr(a, "toarray") else a, float) for a in sets]
    if len({a.shape[1:] for a in arrays}) > 1 or arrays[0].ndim != 2 or not all(map(len, arrays)):
        raise ValueError(f"sets of cells are arrays (N, D) with the same D; got {[a.shape for a in arrays]}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("a set of cells holds NaN or infinite values; drop or repair those cells first")
    return arrays
