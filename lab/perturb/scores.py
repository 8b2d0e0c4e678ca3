"""What is said of predicted mean profiles (N, G) beside true ones: each a number for each perturbation (N,).

A shift of the prediction is taken from controls A, one of the truth from controls B, so that no noise is in both.
"""

import numpy as np
from scipy import special
from scipy.spatial.distance import cdist

CONSTANT = 1e-5  # of the spread of expression: a shift that varies less over genes is none
FALSE = 0.05  # the rate of false discoveries among genes that are called changed


def mse(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean over genes of the squared difference.

    >>> mse(np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]]))
    array([4.5])
    """
    return np.square(predicted - truth).mean(1)


def r2(predicted: np.ndarray, truth: np.ndarray, mean: np.ndarray, *, flat: bool = False) -> float:
    """Of each gene's variance over perturbations about its `mean` (G,) among those trained on, the part that is
    predicted, averaged over genes: 1 at best, 0 for that mean, below 0 for what is worse. With flat=True, the trap: all
    numbers as one long list about their one mean. Genes differ more than perturbations do, so any gene means score.

    >>> predicted, truth = np.array([[2.0, 11.0], [3.0, 11.0]]), np.array([[1.0, 10.0], [3.0, 12.0]])
    >>> r2(predicted, truth, np.array([2.0, 11.0]))
    0.25
    >>> round(r2(predicted, truth, np.array([2.0, 11.0]), flat=True), 3)
    0.965
    """
    apart, about = np.square(predicted - truth), np.square(truth - (truth.mean() if flat else mean))
    if flat:
        return float(1 - apart.sum() / about.sum())
    varies = about.sum(0) > 0
    return float((1 - apart.sum(0)[varies] / about.sum(0)[varies]).mean())


def correlation(shift: np.ndarray, true_shift: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Pearson's, over genes; 0 where the predicted shift is the same in all genes, to within `floor`.

    >>> shift = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    >>> correlation(shift, np.array([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]]))
    array([0.5, 0. ])
    """
    x, y = (a - a.mean(1, keepdims=True) for a in (shift, true_shift))
    norm = np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    moves = x.std(1) > floor
    return np.divide((x * y).sum(1), norm, out=np.where(np.isnan(norm), np.nan, 0.0), where=moves & (norm > 0))


def discrimination(predicted: np.ndarray, truth: np.ndarray, targets=None, *, both: bool = True) -> np.ndarray:
    """1 - rank / N: of all N true profiles, how many are nearer to the prediction than the right one, in L1; 1 for
    none, (N + 1) / 2N on average for chance and for any one prediction for all. Ties count a half.

    `targets`, the columns of each perturbation's own genes, are not looked at: of a pair, right one and candidate,
    those of `both`. With both=False only the predicted one's, as cell-eval has it, whose shifts from controls are
    these profiles where both have the same; a candidate is then far for its own gene alone, and one prediction for
    all scores above chance.

    >>> truth = np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    >>> discrimination(np.array([[0.1, 0.0], [5.0, 0.0], [5.0, 0.0]]), truth).round(2)
    array([1.  , 0.67, 1.  ])
    """
    same = (predicted == predicted[:1]).all()
    apart = cdist(predicted[: 1 if same else None], truth, "cityblock")  # (N, N)
    apart = np.tile(apart, (len(truth), 1)) if same else apart
    targets = [list(of) for of in targets or [[]] * len(truth)]
    for i, of in enumerate(targets):
        apart[i] -= np.abs(predicted[i, of] - truth[:, of]).sum(1)
    own = np.tile(np.diagonal(apart)[:, None], len(truth))
    pairs = [(j, g) for j, of in enumerate(targets) for g in of] if both else []
    lacks = {g: np.array([g not in of for of in targets]) for g in {g for _, g in pairs}}
    for j, g in pairs:
        apart[:, j] -= lacks[g] * np.abs(predicted[:, g] - truth[j, g])
        own[:, j] -= lacks[g] * np.abs(predicted[:, g] - truth[:, g])
    tied = np.isclose(apart, own, rtol=1e-9, atol=1e-12)
    rank = ((apart < own) & ~tied).sum(1) + (tied.sum(1) - 1) / 2
    return np.where(np.isnan(np.diagonal(own)), np.nan, 1 - rank / len(truth))


def overlap(shift: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Of the k genes that have changed (N, G, -1, 0 or 1), the share among the k with the largest predicted shifts;
    NaN where none has. Genes with equal shifts share the places that are left, so that no shift at all scores k / G.

    >>> overlap(np.array([[3.0, -2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), np.array([[1, 0, 1, 0], [1, -1, 0, 0]]))
    array([0.5, 0.5])
    """
    size, hits = np.abs(shift), changed != 0
    k = hits.sum(1)
    edge = np.take_along_axis(np.sort(size, 1)[:, ::-1], np.maximum(k - 1, 0)[:, None], 1)
    above, at = size > edge, size == edge
    share = (k - above.sum(1)) / np.maximum(at.sum(1), 1)
    found = (above & hits).sum(1) + share * (at & hits).sum(1)
    return np.where((k > 0) & np.isfinite(shift).all(1), found / np.maximum(k, 1), np.nan)


def direction(shift: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Of the genes that have changed, the share that is predicted to change in the same direction; no change a half.

    >>> direction(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[1, 1, 0, 1]]))
    array([0.5])
    """
    k = (changed != 0).sum(1)
    right = ((1 + np.sign(shift) * changed) / 2 * (changed != 0)).sum(1)
    return np.divide(right, k, out=np.full(len(k), np.nan), where=k > 0)


def over_sets(shift: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Mean shifts (N, S) over gene sets, (G, S) of 0 and 1.

    >>> over_sets(np.array([[1.0, 3.0, 5.0]]), np.array([[1, 0], [1, 0], [0, 1]]))
    array([[2., 5.]])
    """
    return shift @ (sets / sets.sum(0))


def changed_by_cells(mean, var, n, of_control, var_control, n_control) -> np.ndarray:
    """Genes changed (N, G: -1, 0, 1) by Welch's test between cells, at 5 % false discoveries for each perturbation.
    Cells of one culture are no replicates: its p-values are too small."""
    a, b = var / n[:, None], var_control / n_control
    t = np.divide(mean - of_control, np.sqrt(a + b), out=np.zeros_like(mean), where=a + b > 0)
    free = np.square(a + b) / (np.square(a) / (n[:, None] - 1).clip(1) + b**2 / (n_control - 1)).clip(1e-300)
    return np.sign(t) * _discovered(t, free.clip(1))


def changed_by_replicates(y: np.ndarray, group: np.ndarray, replicate: np.ndarray, n: int) -> np.ndarray:
    """The same by pseudobulks y (P, G) of `group` 0..n-1, or n for controls, and `replicate`: a linear model of both,
    one variance a gene for all groups, Student's t of group against control. No gene has where replicates leave
    nothing to tell a group from control by, or nothing to estimate the variance from."""
    design = np.concatenate([np.eye(replicate.max() + 1)[replicate], np.eye(n + 1)[group][:, :n]], 1)
    free = len(y) - np.linalg.matrix_rank(design)
    inverse = np.linalg.pinv(design)
    told = np.isclose((inverse @ design)[-n:, -n:].diagonal(), 1)
    if not free:
        return np.zeros((n, y.shape[1]))
    slope, left = (inverse @ y)[-n:], y - design @ (inverse @ y)
    error = np.sqrt(np.square(left).sum(0) / free * np.square(inverse[-n:]).sum(1)[:, None])
    t = np.divide(slope, error, out=np.zeros_like(slope), where=error > 0)
    return np.sign(t) * _discovered(t, np.full(t.shape, free)) * told[:, None]


def _discovered(t: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Which of Student's t (N, G) are discoveries, row by row, at 5 % false ones (Benjamini & Hochberg 1995).

    >>> t, free = special.stdtrit(9, np.array([[0.001, 0.04, 0.024, 0.9]]) / 2), np.full((1, 4), 9)
    >>> _discovered(t, free).astype(int)
    array([[1, 0, 1, 0]])
    """
    p = np.ones(t.shape)
    some = np.abs(t) > 1.95  # p is above .05 for all others, whatever their degrees of freedom
    p[some] = 2 * special.stdtr(free[some], -np.abs(t[some]))
    ordered = np.sort(p, 1)
    below = ordered <= FALSE * np.arange(1, p.shape[1] + 1) / p.shape[1]
    last = np.where(below, ordered, -1).max(1, keepdims=True)
    return p <= last


def ceiling(t1, t2, t, reference_a, reference_b) -> tuple[np.ndarray, np.ndarray]:
    """Covariance over genes of half of the treated cells less A with the other half less B, and variance of all less
    B: sqrt(covariance / variance) is the correlation of a prediction without noise, where the first is above 0."""
    shifts = (t1 - reference_a, t2 - reference_b, t - reference_b)
    one, two, whole = (a - a.mean(1, keepdims=True) for a in shifts)
    return (one * two).mean(1), np.square(whole).mean(1)
