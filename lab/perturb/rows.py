"""One split of the controls: the means of every row, and of the truth that judges them."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lab import baselines

from . import scores
from .cells import Cells, joined
from .groups import halved, squared, sums

ROWS = ["model", "no-change", "perturbed-mean", "additive", "nearest", "ridge", "label-permuted", "ceiling"]
METRICS = [
    "MSE",
    "delta-correlation (control)",
    "delta-correlation (mean)",
    "discrimination",
    "DE overlap",
    "DE direction",
    "pathway correlation",
    "pathway sign",
    "E-distance",
    "MMD",
]
LOW = ("MSE", "E-distance", "MMD")  # better below
BOUNDED = METRICS[:3] + METRICS[6:7]  # whose ceiling is a formula, which may not be estimable


@dataclass(frozen=True)
class Task:
    """What does not change between splits: judged perturbations, true cells and those of known perturbations, where
    there are others; features, gene sets (G, S), columns of each perturbation's own genes, the combining mark, and
    the mean squares (N, G) of true cells."""

    names: list[str]
    truth: Cells
    train: Cells | None
    known: list[str]
    features: pd.DataFrame
    sets: np.ndarray | None
    targets: list[list[int]]
    separator: str
    squares: np.ndarray


@dataclass(frozen=True)
class Judge:
    """True means `t` (N, G), controls B (G,), the mean of other perturbations `rest` (N, G), and genes changed."""

    t: np.ndarray
    b: np.ndarray
    rest: np.ndarray
    changed: np.ndarray

    def scores(self, p: np.ndarray, a: np.ndarray, mean: np.ndarray, task: Task) -> dict:
        """Every measure but discrimination of predicted means p (N, G), whose shifts are from A (G,) and from `mean`
        (N, G)."""
        floor = scores.CONSTANT * a.std()
        shift = np.where(np.abs(p - a) > floor, p - a, 0 * p)
        said = {
            "MSE": scores.mse(p, self.t),
            METRICS[1]: scores.correlation(p - a, self.t - self.b, floor),
            METRICS[2]: scores.correlation(p - mean, self.t - self.rest, floor),
            "DE overlap": scores.overlap(shift, self.changed),
            "DE direction": scores.direction(shift, self.changed),
        }
        if task.sets is not None:
            ours, theirs = (scores.over_sets(d, task.sets) for d in (p - a, self.t - self.b))
            said["pathway correlation"] = scores.correlation(ours, theirs, floor)
            sign = (1 + np.sign(np.where(np.abs(ours) > floor, ours, 0 * ours)) * np.sign(theirs)) / 2
            said["pathway sign"] = sign.mean(1)
        return said


@dataclass(frozen=True)
class Split:
    """Mean of controls A (G,), the judge of all rows, known means (K, G), and half of the truth's cells: their means
    (N, G), and a judge made of the other half."""

    a: np.ndarray
    judge: Judge
    half: Judge
    known: pd.DataFrame
    first: np.ndarray


def split_of(task: Task, a: Cells, b: Cells, random, test: bool = True) -> Split:
    """The means of one split, and with `test` the genes changed; where no other perturbations are known, half of the
    cells of each judged one are known for the others."""
    n, of = len(task.names), pd.Index(task.names).get_indexer(task.truth.of)
    which = halved(of, n, random)
    code = np.where(of >= 0, of + n * which, -1)
    count = np.bincount(code[of >= 0], minlength=2 * n).reshape(2, n)
    total = sums(task.truth.x, code, 2 * n).reshape(2, n, -1)
    known_half, other_half = (total / count[:, :, None])[::-1]  # `which` is 1 in the known half
    t = total.sum(0) / count.sum(0)[:, None]
    if task.train is None:
        known, rest = pd.DataFrame(known_half, task.names), other_half
    else:
        code = pd.Index(task.known).get_indexer(task.train.of)
        mean = sums(task.train.x, code, len(task.known)) / np.bincount(code[code >= 0])[:, None]
        known, rest = pd.DataFrame(mean, task.known), t
    rest = baselines.perturbed_mean(task.names, pd.DataFrame(rest, task.names))
    judge = Judge(t, b.mean(), rest, np.zeros(t.shape))
    half = replace(judge, t=other_half)
    if test:
        judge = replace(judge, changed=_changed(task, b, of, t, task.squares))
        half = replace(half, changed=_changed(task, b, np.where(which == 0, of, -1), other_half))
    return Split(a.mean(), judge, half, known, known_half)


def predictions(task: Task, split: Split) -> dict[str, np.ndarray]:
    """The mean profiles (N, G) of every baseline."""
    names, known = task.names, split.known
    return {
        "no-change": np.tile(split.a, (len(names), 1)),
        "perturbed-mean": baselines.perturbed_mean(names, known),
        "additive": baselines.additive(names, split.a, known, task.separator),
        "nearest": baselines.nearest(names, known, task.features),
        "ridge": baselines.ridge(names, known, task.features),
    }


def pooled(controls: Cells, task: Task) -> Cells:
    """All cells, controls first, whose label is empty."""
    cells = [controls, task.truth] + ([task.train] if task.train is not None else [])
    of = np.concatenate([np.full(len(controls), "", object)] + [one.of.astype(object) for one in cells[1:]])
    every = cells[0]
    for one in cells[1:]:
        every = joined(every, one)
    return replace(every, of=of, replicate=None)


def shuffled(task: Task, pool: Cells, n_a: int, n_b: int, random) -> tuple[Task, Cells, Cells]:
    """The same task and controls where every label has been dealt to a cell at random: of `pool`, all cells, of which
    the first are `n_a` and `n_b` controls."""
    order = random.permutation(len(pool))
    dealt = np.empty(len(pool), object)
    dealt[order] = pool.of
    cells = replace(pool, of=dealt)
    a, b = (cells[rows] for rows in (order[:n_a], order[n_a : n_a + n_b]))
    return replace(task, truth=cells, train=None if task.train is None else cells), a, b


def _changed(task: Task, b: Cells, of: np.ndarray, mean: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
    """Genes changed (N, G) between cells with code `of` (B,) and B, by replicates where there are any; the cells' mean
    and, where it is known, mean square."""
    n = len(task.names)
    if task.truth.replicate is None:
        count = np.bincount(of[of >= 0], minlength=n)
        squares = sums(squared(task.truth.x), of, n) / count[:, None] if squares is None else squares
        var = (squares - mean**2).clip(0) * (count / (count - 1).clip(1))[:, None]
        of_b = b.mean()
        var_b = (np.asarray(squared(b.x).mean(0), float).ravel() - of_b**2).clip(0) * len(b) / (len(b) - 1)
        return scores.changed_by_cells(mean, var, count, of_b, var_b, len(b))
    levels = pd.Index(sorted({*task.truth.replicate, *b.replicate}))
    r = len(levels)
    code = np.where(of >= 0, of * r + levels.get_indexer(task.truth.replicate), -1)
    of_b = n * r + levels.get_indexer(b.replicate)
    bulk = sums(task.truth.x, code, (n + 1) * r) + sums(b.x, of_b, (n + 1) * r)
    cells = np.bincount(code[code >= 0], minlength=(n + 1) * r) + np.bincount(of_b, minlength=(n + 1) * r)
    there = np.flatnonzero(cells)
    return scores.changed_by_replicates(bulk[there] / cells[there, None], there // r, there % r, n)
