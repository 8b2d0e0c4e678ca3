"""How good predicted perturbation responses are: every measure, for every perturbation, beside every baseline."""

import anndata as ad
import numpy as np
import pandas as pd

from lab import baselines
from lab.baselines.perturb import parts
from lab.errors import Refused

from . import scores
from .cells import Cells, check_scale, gathered, joined
from .distances import distances
from .groups import means_of, squared
from .guards import sided
from .rows import BOUNDED, METRICS, Split, Task, pooled, predictions, shuffled, split_of
from .table import long, won

LEARNED = ("perturbed-mean", "additive", "nearest", "ridge")


def evaluate(
    predicted: ad.AnnData,
    truth: ad.AnnData,
    *,
    control: ad.AnnData,
    truth_control: ad.AnnData,
    train: ad.AnnData | None = None,
    by: str = "perturbation",
    layer: str = "counts",
    features: pd.DataFrame | None = None,
    gene_sets: pd.DataFrame | None = None,
    replicate: str | None = None,
    separator: str = "+",
    splits: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """One number a metric, row, perturbation and split of the controls, in columns of these names and `value`;
    `perturb.summary` makes the table to read, and `attrs["notes"]` says what could not be judged and why, and which
    metrics one mean for all perturbations wins.

    `predicted` holds cells, or one mean of log-normalised values, for each perturbation of `truth`, named in obs[by];
    the cells in `control` (A) are what the model learned and started from, and the reference of its shifts, those in
    `truth_control` (B) the reference of the truth's alone. `train` are the perturbed cells it learned from, which may
    hold control cells too. Counts stand in `layers[layer]`, else X; else X is log1p of counts per 10,000.

    Rows beside the "model": no-change, perturbed-mean, additive (combinations, named A+B), nearest and ridge (on
    `features`, a row a perturbation; by default of its target genes among control cells, so that one whose target is
    not measured has none, and these rows leave it out: `summary` counts in `judged`), which learn from `train` or,
    without it, for each perturbation from half of the cells of the others; label-permuted, the perturbed-mean where
    labels are dealt at random among all cells, controls included; and ceiling: for correlations that of a prediction
    without noise, for MSE its expectation, for all others one half of the true cells judged by the other. Split 0 is
    the one given, on which the model is judged; the other rows are made anew for `splits` in all.

    Metrics: see `perturb.scores`, and between cells the energy distance and squared MMD in 50 components of all cells
    pooled, on split 0, where baselines are control cells moved by the predicted shift. `gene_sets` (genes x sets, 0 or
    1, as `data.programmes` returns) adds the rows on pathways. `replicate`, an obs column such as the donor, tests
    genes on pseudobulks; without it p-values are those of cells, which are no replicates.

    Raises `Refused`: cells on two sides, a judged perturbation in `train`, one that was not predicted, other genes,
    and scales that differ.
    """
    if splits < 1:
        raise Refused(f"splits={splits}: one, the split that is given, or more")
    given = {"predicted": predicted, "truth": truth, "control": control, "truth_control": truth_control}
    cells, genes = gathered(given | ({"train": train} if train is not None else {}), by, layer, replicate)
    notes = [] if replicate else ["DE genes: no replicates given, so that cells are tested, which are none"]
    cells, names = sided(cells, separator, notes)
    a, b, model = (cells[name] for name in ("control", "truth_control", "predicted"))
    p = means_of(model.x, model.of, names)
    if note := check_scale(p, a.mean()):
        notes.append(note)
    known = sorted(set(cells["train"].of)) if train is not None else []
    if features is None:
        features = baselines.target_features([*names, *known], a.x, genes, separator=separator)
    sets = None if gene_sets is None else _sets(gene_sets, genes)
    targets = [[g for g in genes.get_indexer(parts(name, separator)) if g >= 0] for name in names]
    squares = means_of(squared(cells["truth"].x), cells["truth"].of, names)
    task = Task(names, cells["truth"], cells.get("train"), known, features, sets, targets, separator, squares)
    _explain(task, notes)

    both, told, bounds, ranks = joined(a, b), [], [], {}
    pool = pooled(both, task)
    for s, random in enumerate(np.random.default_rng(seed).spawn(splits)):
        order = random.permutation(len(both))
        a_, b_ = (a, b) if s == 0 else (both[order[: len(a)]], both[order[len(a) :]])
        split = split_of(task, a_, b_, random)
        mean = baselines.perturbed_mean(names, split.known)
        rows = predictions(task, split)
        if s == 0:
            told += [(row, 0, said) for row, said in distances(cells, names, rows, random).items()]
            rows = {"model": p} | rows
        told += [(row, s, said) for row, said in _rows(task, split, mean, rows, ranks)]
        bounds.append(_bounds(split, mean, task))
        told.append(("label-permuted", s, _permuted(task, pool, len(a), len(b), random)))
    noise = (squares - split.judge.t**2).clip(0) / (np.unique(task.truth.of, return_counts=True)[1][:, None] - 1)
    told.append(("ceiling", 0, _ceilings(bounds) | {"MSE": noise.mean(1)}))
    table = long(told, names)
    table.attrs["notes"] = [*notes, won(table)]
    return table


def _rows(task: Task, split: Split, mean: np.ndarray, rows: dict[str, np.ndarray], ranks: dict):
    """(row, what is said of it) for every mean profile, and the halves of the truth that judge each other. `ranks`
    keeps what was last said of a row's discrimination: most predictions are the same in every split."""
    for row, means in rows.items():
        said = split.judge.scores(means, split.a, mean, task)
        if task.train is not None or row not in LEARNED:
            if row not in ranks or not np.array_equal(ranks[row][0], means):
                ranks[row] = means, scores.discrimination(means, split.judge.t, task.targets)
            said["discrimination"] = ranks[row][1]
        yield row, said
    said = split.half.scores(split.first, split.a, mean, task)
    said["discrimination"] = scores.discrimination(split.first, split.half.t, task.targets)
    yield "ceiling", {metric: values for metric, values in said.items() if metric not in BOUNDED}


def _permuted(task: Task, pool: Cells, n_a: int, n_b: int, random) -> dict[str, np.ndarray]:
    """What is said of the perturbed mean where every label has been dealt to a cell at random; its MSE, of a truth
    without effects, belongs beside no other."""
    task_, a, b = shuffled(task, pool, n_a, n_b, random)
    split = split_of(task_, a, b, random, test=False)
    mean = baselines.perturbed_mean(task.names, split.known)
    said = split.judge.scores(mean, split.a, mean, task)
    if task.train is not None:
        said["discrimination"] = scores.discrimination(mean, split.judge.t, task.targets)
    return {metric: values for metric, values in said.items() if metric != "MSE"}


def _bounds(split: Split, mean: np.ndarray, task: Task) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The covariance and variance of `scores.ceiling`, of one split, for each correlation."""
    t = split.first, split.half.t, split.judge.t
    a, b = (np.tile(one, (len(task.names), 1)) for one in (split.a, split.judge.b))
    said = {METRICS[1]: scores.ceiling(*t, a, b), METRICS[2]: scores.ceiling(*t, mean, split.judge.rest)}
    if task.sets is not None:
        said[METRICS[6]] = scores.ceiling(*(scores.over_sets(x, task.sets) for x in (*t, a, b)))
    return said


def _ceilings(bounds: list[dict]) -> dict[str, np.ndarray]:
    """Correlations of a prediction without noise, at most 1, from the means over splits; NaN, not estimable, where the
    halves of the truth do not vary together."""
    said = {}
    for metric in bounds[0]:
        covariance, variance = np.mean([one[metric] for one in bounds], 0)
        ratio = np.divide(covariance, variance, out=np.full(len(variance), np.nan), where=variance > 0)
        said[metric] = np.sqrt(np.where(ratio > 0, ratio.clip(max=1), np.nan))
    return said


def _sets(gene_sets: pd.DataFrame, genes: pd.Index) -> np.ndarray:
    """Gene sets (G, S) of 0 and 1, those with a gene; at least three."""
    of = gene_sets.reindex(genes).fillna(0).to_numpy(float) != 0
    of = of[:, of.any(0)]
    if of.shape[1] < 3:
        raise Refused(
            f"{of.shape[1]} of the {gene_sets.shape[1]} gene sets have a gene in common with the cells, and a "
            "correlation over sets needs three; names must be of one kind, such as gene symbols"
        )
    return of.astype(float)


def _explain(task: Task, notes: list[str]) -> None:
    """What the rows will not say, and why."""
    known = set(task.names if task.train is None else task.known)
    combined = [of for of in (parts(name, task.separator) for name in task.names) if len(of) > 1]
    if not combined:
        notes.append("additive: no perturbation is a combination")
    elif n := sum(not known.issuperset(of) for of in combined):
        notes.append(f"additive: {n} of {len(combined)} combinations have a part that is not known")
    if lacking := [name for name in task.names if name not in task.features.index]:
        notes.append(
            f"nearest, ridge: {len(lacking)} of {len(task.names)} perturbations have no features (such as {lacking[0]})"
            ", by default since a target gene is not measured"
        )
    if task.train is None:
        notes.append(
            "without train, each baseline learned from the other perturbations of truth, half of their cells; their "
            "discrimination is left out, since they know all candidates but the right one, and a model that learned "
            "from all of those cells has their noise in common with the mean perturbed profile"
        )
    if task.sets is None:
        notes.append("pathways: no gene sets given")
