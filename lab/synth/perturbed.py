"""What a screen's perturbations do to its cells, one row a perturbation, real or simulated: the part of realism that a
report on controls cannot see."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from lab.data import check_counts
from lab.data.counts import labels
from lab.data.prepare import log_normalise
from lab.errors import Refused


def perturbation_report(
    cells: ad.AnnData,
    *,
    control: str = "control",
    min_cells: int = 40,
    size: int = 200,
    splits: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a label of `obs["perturbation"]` with `min_cells` cells or more, from log1p(CP10k) of `layers["counts"]`.

    `cells`; `genes`, how many differ from control by Welch's t-test at a false discovery rate of 5 %, with at most
    `size` cells of either; `norm` of the shift; `reliability`, the correlation of two halves of its cells in their
    shifts; `with_mean`, that of its shift with the mean of all others. In the last three the two shifts that
    are multiplied use disjoint halves of the controls, lest these make them correlate; they are means over `splits`.
    """
    label = labels(cells, "perturbation").astype(str).to_numpy()
    x = log_normalise(cells.layers["counts"], check_counts(cells)).toarray()
    counts = pd.Series(label).value_counts()
    kept = sorted(counts.index[(counts >= min_cells) & (counts.index != control)])
    if counts.get(control, 0) < min_cells or len(kept) < 2:
        raise Refused(
            f"{counts.get(control, 0)} cells are labelled {control!r}, and {len(kept)} perturbations have {min_cells}; "
            f"it takes {min_cells} controls and two such perturbations: name the control's label, or lower min_cells"
        )
    random, rows = np.random.default_rng(seed), {name: np.flatnonzero(label == name) for name in (control, *kept)}
    halves = [{name: _halves(random, x, at) for name, at in rows.items()} for _ in range(splits)]
    table = {name: _shifts(name, control, kept, halves) for name in kept}
    table = pd.DataFrame.from_dict(table, orient="index", columns=["norm", "reliability", "with_mean"])
    some = {name: random.permutation(at)[:size] for name, at in rows.items()}
    table.insert(0, "genes", [_different(x[some[name]], x[some[control]]) for name in kept])
    table.insert(0, "cells", counts[kept].to_numpy())
    return table


def _halves(random, x, rows) -> tuple[np.ndarray, np.ndarray]:
    rows = random.permutation(rows)
    return x[rows[::2]].mean(0), x[rows[1::2]].mean(0)


def _shifts(name, control, kept, halves) -> np.ndarray:
    found = []
    for half in halves:
        a, b = half[control]
        first, second = half[name][0] - a, half[name][1] - b
        others = np.mean([sum(half[other]) / 2 for other in kept if other != name], axis=0) - a
        whole = sum(half[name]) / 2 - b
        found.append([first @ second, np.corrcoef(first, second)[0, 1], np.corrcoef(others, whole)[0, 1]])
    square, *correlations = np.mean(found, axis=0)
    return np.array([np.sqrt(max(square, 0)), *correlations])


def _different(x, y) -> int:
    p = stats.ttest_ind(x, y, equal_var=False).pvalue
    p = p[np.isfinite(p)]
    return int((stats.false_discovery_control(p) < 0.05).sum()) if len(p) else 0
