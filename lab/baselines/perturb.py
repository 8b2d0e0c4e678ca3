"""What a perturbation model has to beat, as mean profiles (N, G): made of control cells and of perturbations that are
known, one rule throughout: a perturbation that is itself known is left out of its own prediction.

`known` is a table of mean profiles, perturbations x genes. A row is NaN where a baseline has nothing to say.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import linalg

from lab.errors import Refused

LOOK = 1000  # control cells that tell genes apart
PENALTIES = np.array([np.inf, 100.0, 10.0, 1.0, 0.1, 0.01])  # in units of the number of known perturbations


def parts(name: str, separator: str = "+") -> tuple[str, ...]:
    """The single perturbations of a combination, in the order of the alphabet: those of A+B and of B+A are alike."""
    return tuple(sorted(part.strip() for part in str(name).split(separator)))


def perturbed_mean(names: Sequence[str], known: pd.DataFrame) -> np.ndarray:
    """The mean of all known perturbations, each of one weight.

    >>> known = pd.DataFrame([[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]], ["A", "B", "C"])
    >>> perturbed_mean(["A", "new"], known)
    array([[4. , 1.5],
           [3. , 1. ]])
    """
    total, at = known.to_numpy(float).sum(0), known.index.get_indexer(list(names))
    own = np.where(at[:, None] >= 0, known.to_numpy(float)[at], 0)
    left = len(known) - (at >= 0)[:, None]
    return np.divide(total - own, left, out=np.full(own.shape, np.nan), where=left > 0)


def additive(names: Sequence[str], control: np.ndarray, known: pd.DataFrame, separator: str = "+") -> np.ndarray:
    """Control (G,) and the shifts of the parts of a combination, where all of them are known.

    >>> known = pd.DataFrame([[1.0, 0.0], [3.0, 2.0]], ["A", "B"])
    >>> additive(["B+A", "A"], np.ones(2), known)
    array([[ 3.,  1.],
           [nan, nan]])
    """
    rows, means = np.full((len(names), known.shape[1]), np.nan), known.to_numpy(float)
    for i, name in enumerate(names):
        at = known.index.get_indexer(parts(name, separator))
        if len(at) > 1 and (at >= 0).all():
            rows[i] = control + (means[at] - control).sum(0)
    return rows


def nearest(names: Sequence[str], known: pd.DataFrame, features: pd.DataFrame) -> np.ndarray:
    """The profile of the known perturbation whose features are nearest, each in units of its spread among known ones.

    >>> known = pd.DataFrame([[1.0, 0.0], [3.0, 2.0]], ["A", "B"])
    >>> nearest(["A", "new"], known, pd.DataFrame({"f": [0, 5, 1]}, ["A", "B", "new"]))
    array([[3., 2.],
           [1., 0.]])
    """
    rows = np.full((len(names), known.shape[1]), np.nan)
    x, of, seen, there = _described(names, known, features)
    if len(seen) < 2:
        return rows
    apart = np.square(of[:, None] - x[None]).sum(2)
    apart[np.array(names, object)[there][:, None] == seen.to_numpy()[None]] = np.inf
    rows[there] = known.loc[seen].to_numpy()[apart.argmin(1)]
    return rows


def ridge(names: Sequence[str], known: pd.DataFrame, features: pd.DataFrame) -> np.ndarray:
    """Linear regression of profiles on features, with a penalty on all but the mean, chosen by leaving out each known
    perturbation in turn; a prediction of one of them is that of the fit without it, in closed form, under the penalty
    that the others choose among themselves.

    >>> known = pd.DataFrame([[0.0], [1.0], [2.0], [3.0]], list("ABCD"))
    >>> ridge(["new"], known, pd.DataFrame({"f": [0, 1, 2, 3, 10]}, [*"ABCD", "new"])).round()
    array([[10.]])
    """
    rows = np.full((len(names), known.shape[1]), np.nan)
    x, of, seen, there = _described(names, known, features)
    if len(seen) < 3:
        return rows
    y = known.loc[seen].to_numpy(float)
    mean, n = y.mean(0), len(y)
    y = y - mean
    u, s, v = np.linalg.svd(x, full_matrices=False)
    turned, at = u.T @ y, seen.get_indexer(np.array(names, object)[there])
    kept = s**2 / (s**2 + PENALTIES[:, None] * n)  # (penalties, components)
    part = 1 / n + np.square(u) @ kept.T  # (K, penalties), that a known perturbation has in its own fit
    best = np.argmin([np.square((y - (u * k) @ turned) / (1 - h[:, None])).sum() for k, h in zip(kept, part.T)])
    rows[there] = mean + of @ ((v.T * np.divide(kept[best], s, out=np.zeros_like(s), where=s > 0)) @ turned)
    if (at >= 0).any():
        products = y @ y.T
        cost = np.array([_cost_without(products, u, k) for k in kept])
        own = (cost <= cost.min(0) * (1 + 1e-6)).argmax(0)  # (K,); of equals, as with three known, the largest penalty
        error = (y - (u * kept[own]) @ turned) / (1 - part[np.arange(n), own, None])
        rows[np.flatnonzero(there)[at >= 0]] = (mean + y - error)[at[at >= 0]]
    return rows


def _cost_without(products, u, kept) -> np.ndarray:
    """For each known perturbation (K,) the sum of squared errors of all others, each in a fit that knows neither of the
    two, under one penalty; of `products` (K, K) of centred profiles, from those of residuals and the hat matrix."""
    left = products - (u * kept) @ (u.T @ products)
    left = left - (left @ u) @ (u * kept).T
    hat, square = (u * kept) @ u.T + 1 / len(u), left.diagonal()
    out = 1 - hat.diagonal()[:, None]
    both = (out**2 * square + 2 * out * hat * left + hat**2 * square[:, None]) / (out * out.T - hat**2) ** 2
    np.fill_diagonal(both, 0)
    return both.sum(1)


def target_features(names: Sequence[str], cells, genes: pd.Index, n: int = 10, separator: str = "+") -> pd.DataFrame:
    """Features from nothing but control cells (B, G), at most 1,000: where a perturbation's target gene stands in their
    first `n` components, a combination's the sum of its parts'. Perturbations of which a target is not measured are
    left out."""
    cells = cells[np.unique(np.linspace(0, cells.shape[0] - 1, min(cells.shape[0], LOOK)).astype(int))]
    x = np.asarray(cells.toarray() if hasattr(cells, "toarray") else cells, float)
    x = x - x.mean(0)
    few = len(x) < x.shape[1]
    gram = x @ x.T if few else x.T @ x
    s, v = linalg.eigh(gram, subset_by_index=[max(len(gram) - n, 0), len(gram) - 1])
    v = v.T @ x / np.sqrt(s[:, None].clip(1e-12)) if few else v.T  # (n, G)
    at = {name: genes.get_indexer(parts(name, separator)) for name in names}
    return pd.DataFrame({name: v[:, of].sum(1) for name, of in at.items() if (of >= 0).all()}, dtype=float).T


def _described(names: Sequence[str], known: pd.DataFrame, features: pd.DataFrame):
    """Features of the known (K, F) and of the named that have any, (M, F), both in units of the known ones' spread;
    the known that have any, and which of `names` do (N,)."""
    if not features.index.is_unique or not np.isfinite(features.to_numpy(float)).all():
        raise Refused("features are one finite row a perturbation; drop rows that occur twice or hold NaN")
    seen = known.index[known.index.isin(features.index)]
    there = pd.Index(names).isin(features.index)
    if not len(seen):
        return np.zeros((0, 0)), np.zeros((0, 0)), seen, there
    x, of = (features.loc[list(rows)].to_numpy(float) for rows in (seen, np.array(names, object)[there]))
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 0, std, 1)
    return (x - mean) / std, (of - mean) / std, seen, there
