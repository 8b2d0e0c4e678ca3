"""Distances between predicted and true cells, and between those that baselines would draw."""

import numpy as np
from sklearn.decomposition import PCA

from lab import metrics

from .cells import Cells, dense

COMPONENTS, FITTED, AT_MOST = 50, 3000, 200  # axes; cells of a set they are fitted on; cells of a sample compared
LOOK = 500  # cells that set the kernel's bandwidth


def distances(cells: dict[str, Cells], names: list[str], rows: dict[str, np.ndarray], random) -> dict[str, dict]:
    """Energy distance and squared MMD of each row's cells from the true ones, (N,) each; nothing where means are
    predicted.

    In components of predicted, true and control cells pooled, as many of each. A baseline draws the control cells
    moved by its mean shift; the ceiling is one half of the true cells beside the other, as good as the other half.
    Unbiased at any number of cells, of which a sample has at most 200, of controls 100.
    """
    model, truth, a = (cells[name] for name in ("predicted", "truth", "control"))
    if len(model) == len(set(model.of)):
        return {}
    pooled = [dense(one.x[_some(np.arange(len(one)), FITTED, random)]) for one in (model, truth, a)]
    size = min(map(len, pooled[:2]))
    pca = PCA(min(COMPONENTS, size, model.x.shape[1]), svd_solver="randomized", random_state=0)
    pca.fit(np.concatenate([pooled[0][:size], pooled[1][:size], pooled[2]]))
    origin = pca.mean_ @ pca.components_.T
    place = lambda x: np.asarray(x @ pca.components_.T, float) - origin
    from_a = place(a.x[_some(np.arange(len(a)), AT_MOST // 2, random)])
    shifts = {row: (p - a.mean()) @ pca.components_.T for row, p in rows.items()}
    wide = np.concatenate([from_a, *(place(one[:LOOK]) for one in pooled[:2])])
    bandwidth = float(np.median(np.linalg.norm(wide[random.permutation(len(wide))] - wide, axis=1)))
    said = {row: {m: np.full(len(names), np.nan) for m in ("E-distance", "MMD")} for row in ("model", *rows, "ceiling")}
    where = [{name: np.flatnonzero(one.of == name) for name in names} for one in (truth, model)]
    for i, name in enumerate(names):
        z, drawn = (place(one.x[_some(rows_[name], AT_MOST, random)]) for one, rows_ in zip((truth, model), where))
        half = random.permutation(len(z))
        samples = {"model": drawn} | {row: from_a + shift[i] for row, shift in shifts.items()}
        pairs = {row: (y, z) for row, y in samples.items() if len(y) > 1 and np.isfinite(y).all()}
        for row, (y, z_) in (pairs | {"ceiling": (z[half[::2]], z[half[1::2]])}).items():
            said[row]["E-distance"][i] = metrics.energy_distance(y, z_)
            said[row]["MMD"][i] = metrics.mmd(y, z_, bandwidth)
    return said


def _some(rows: np.ndarray, n: int, random) -> np.ndarray:
    return random.permutation(rows)[:n]
