"""How good predicted perturbation responses are: every measure, for every perturbation, beside every baseline."""

import anndata as ad
import numpy as np
import pandas as pd

from lab import baselines
from lab.baselines.perturb import parts
from lab.errors import Refused

from . import scores
from .cells import check_scale, gathered, joined
from .distances import distances
from .groups import means_of, squared
from .guards import sided
from .rows import METRICS, ROWS, Split, Task, pooled, predictions, shuffled, split_of

LEARNED = ("perturbed-mean", "additive", "nearest", "ridge")
BOUNDED = ("MSE", "delta-correlation (control)", "delta-correlation (mean)", "pathway correlation")  # by a formula


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
    `perturb.summary` makes the table to read, and `attrs["notes"]` says what could not be judged and why.

    `predicted` holds cells, or one mean of log-normalised values, for each perturbation of `truth`, named in obs[by];
    the cells in `control` (A) are what the model learned and started from, and the reference of its shifts, those in
    `truth_control` (B) the reference of the truth's alone. `train` are the perturbed cells it learned from, which may
    hold control cells too. Counts stand in `layers[layer]`, else X; else X is log1p of counts per 10,000.

    Rows beside the "model": no-change, perturbed-mean, additive (combinations, named A+B), nearest and ridge (on
    `features`, a row a perturbation; by default of its target genes among control cells), which learn from `train` or,
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
        for row, means in rows.items():
            said = split.judge.scores(means, split.a, mean, task)
            if task.train is not None or row not in LEARNED:
                if row not in ranks or not np.array_equal(ranks[row][0], means):  # most are the same in every split
                    ranks[row] = means, scores.discrimination(means, split.judge.t, targets)
                said["discrimination"] = ranks[row][1]
            told.append((row, s, said))
        half = split.half.scores(split.first, split.a, mean, task)
        half["discrimination"] = scores.discrimination(split.first, split.half.t, targets)
        told.append(("ceiling", s, {m: half[m] for m in half if m not in BOUNDED}))
        bounds.append(_bounds(split, mean, task))
        other, a_, b_ = shuffled(task, pool, len(a), len(b), random)
        null = split_of(other, a_, b_, random, test=False)
        mean = baselines.perturbed_mean(names, null.known)
        said = null.judge.scores(mean, null.a, mean, task)
        if task.train is not None:
            said["discrimination"] = scores.discrimination(mean, null.judge.t, targets)
        told.append(("label-permuted", s, {m: said[m] for m in said if m != "MSE"}))
    noise = (squares - split.judge.t**2).clip(0) / (np.unique(task.truth.of, return_counts=True)[1][:, None] - 1)
    told.append(("ceiling", 0, _ceilings(bounds) | {"MSE": noise.mean(1)}))
    table = _table(told, names)
    table.attrs["notes"] = notes
    return table


def _table(told: list[tuple[str, int, dict]], names: list[str]) -> pd.DataFrame:
    """What was said of rows and splits, a line a number; where a baseline says nothing there is none."""
    lines = [(metric, row, split, values) for row, split, said in told for metric, values in said.items()]
    metric, row, split, values = zip(*lines)
    long = lambda one: np.repeat(one, len(names))
    table = pd.DataFrame(
        {
            "metric": pd.Categorical(long(metric), METRICS),
            "row": pd.Categorical(long(row), ROWS),
            "perturbation": np.tile(np.array(names, object), len(lines)),
            "split": long(split),
            "value": np.concatenate(values),
        }
    )
    table = table[table["value"].notna() | (table["row"] == "ceiling")]
    return table.sort_values(["metric", "row", "split"], kind="stable", ignore_index=True)


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
    combined = [name for name in task.names if len(parts(name, task.separator)) > 1]
    if not combined:
        notes.append("additive: no perturbation is a combination")
    if lacking := [name for name in task.names if name not in task.features.index]:
        notes.append(
            f"nearest, ridge: {len(lacking)} of {len(task.names)} perturbations have no features (such as {lacking[0]})"
        )
    if task.train is None:
        notes.append(
            "without train, each baseline learned from the other perturbations of truth, half of their cells; their "
            "discrimination is left out, since they know all candidates but the right one"
        )
    if task.sets is None:
        notes.append("pathways: no gene sets given")
