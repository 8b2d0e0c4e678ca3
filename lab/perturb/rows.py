"""One split of the controls: the means of every row, and of the truth that judges them."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from lab import baselines

from . import scores
from .cells import Cells, joined

ROWS = ["model", "no-change", "perturbed-mean", "additive", "nearest", "ridge", "null", "ceiling"]
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
BLOCK = 4096  # cells that are summed at a time


@dataclass(frozen=True)
class Task:
    """What does not change between splits: judged perturbations, true cells and those of known perturbations, where
    there are others; features, gene sets (G, S), columns of each perturbation's own genes, and the combining mark."""

    names: list[str]
    truth: Cells
    train: Cells | None
    known: list[str]
    features: pd.DataFrame
    sets: np.ndarray | None
    targets: list[list[int]]
    separator: str


@dataclass(frozen=True)
class Judge:
    """True means `t` (N, G), controls B (G,), the mean of other perturbations `rest` (N, G), and genes changed."""

    t: np.ndarray
    b: np.ndarray
    rest: np.ndarray
    changed: np.ndarray

    def scores(self, p: np.ndarray, a: np.ndarray, mean: np.ndarray, task: Task, ranked: bool) -> dict:
        """Every measure of predicted means p (N, G), whose shifts are from A (G,) and from `mean` (N, G)."""
        shift, floor = p - a, scores.CONSTANT * a.std()
        said = {
            "MSE": scores.mse(p, self.t),
            METRICS[1]: scores.correlation(shift, self.t - self.b, floor),
            METRICS[2]: scores.correlation(p - mean, self.t - self.rest, floor),
            "DE overlap": scores.overlap(np.where(np.abs(shift) > floor, shift, shift * 0), self.changed),
            "DE direction": scores.direction(np.where(np.abs(shift) > floor, shift, shift * 0), self.changed),
        }
        if ranked:
            said["discrimination"] = scores.discrimination(p, self.t, task.targets)
        if task.sets is not None:
            ours, theirs = (scores.over_sets(d, task.sets) for d in (shift, self.t - self.b))
            said["pathway correlation"] = scores.correlation(ours, theirs, floor)
            sign = (1 + np.sign(np.where(np.abs(ours) > floor, ours, ours * 0)) * np.sign(theirs)) / 2
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


def sums(x, of: np.ndarray, n: int) -> np.ndarray:
    """Sums (n, G) of the rows of x (B, G) with `of` (B,) equal to 0..n-1; others are -1."""
    total = np.zeros((n, x.shape[1]))
    for start in range(0, x.shape[0], BLOCK):  # in single precision, so not too many at a time
        rows = np.flatnonzero(of[start : start + BLOCK] >= 0)
        block = x[start : start + BLOCK]
        ones = (np.ones(len(rows), np.float32), (of[start + rows], rows))
        part = sparse.csr_matrix(ones, shape=(n, block.shape[0])) @ block
        total += part.toarray() if sparse.issparse(part) else part
    return total


def halved(of: np.ndarray, n: int, random) -> np.ndarray:
    """0 or 1 (B,): each group of `of` in two halves at random."""
    order = random.permutation(np.flatnonzero(of >= 0))
    order = order[np.argsort(of[order], kind="stable")]
    size = np.bincount(of[order], minlength=n)
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    which = np.zeros(len(of), int)
    which[order] = place < np.repeat(size // 2, size)
    return which


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
        judge = replace(judge, changed=_changed(task, b, of))
        half = replace(half, changed=_changed(task, b, np.where(which == 0, of, -1)))
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


def squared(x):
    """Element by element."""
    return x.multiply(x).tocsr() if sparse.issparse(x) else x * x


def _changed(task: Task, b: Cells, of: np.ndarray) -> np.ndarray:
    """Genes changed (N, G) between cells with code `of` (B,) and B, by replicates where there are any."""
    n = len(task.names)
    if task.truth.replicate is None:
        count = np.bincount(of[of >= 0], minlength=n)
        mean, squares = (sums(x, of, n) / count[:, None] for x in (task.truth.x, squared(task.truth.x)))
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
