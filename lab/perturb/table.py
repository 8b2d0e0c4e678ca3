"""The table to read: every metric and row over perturbations, what a mean predictor wins, and their picture."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lab import metrics, plot
from lab.errors import Refused

from .rows import BOUNDED, LOW, METRICS, ROWS


def long(told: list[tuple[str, int, dict]], names: list[str]) -> pd.DataFrame:
    """What was said of rows and splits, a line a number; there is none where nothing is said, but NaN where a ceiling
    is not estimable."""
    lines = [(metric, row, split, values) for row, split, said in told for metric, values in said.items()]
    metric, row, split, values = zip(*lines)
    each = lambda one: np.repeat(one, len(names))
    table = pd.DataFrame(
        {
            "metric": pd.Categorical(each(metric), METRICS),
            "row": pd.Categorical(each(row), ROWS),
            "perturbation": np.tile(np.array(names, object), len(lines)),
            "split": each(split),
            "value": np.concatenate(values),
        }
    )
    table = table[table["value"].notna() | (table["row"] == "ceiling") & table["metric"].isin(BOUNDED)]
    return table.sort_values(["metric", "row", "split"], kind="stable", ignore_index=True)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Of what `evaluate` returned, a line a metric and row: `median`, `mean`, `low` and `high` (5 and 95 %) over
    perturbations, each taken as the mean of its splits; `spread`, the standard deviation of the median over splits;
    and `judged`, of how many perturbations.

    A ceiling that is not estimable counts as below all others: a median that falls there is NaN.
    """
    lines = {}
    for (metric, row), of in scores.groupby(["metric", "row"], observed=True):
        wide = of.pivot(index="perturbation", columns="split", values="value")
        each = wide.mean(axis=1)
        ranked = each.fillna(-np.inf)
        over = wide.median()
        with np.errstate(invalid="ignore"):
            quantiles = [ranked.quantile(q, interpolation="linear") for q in (0.5, 0.05, 0.95)]
        median, low, high = (q if np.isfinite(q) else np.nan for q in quantiles)
        spread = over.std() if len(over) > 1 else np.nan
        lines[metric, row] = [median, each.mean(), low, high, spread, int(each.notna().sum())]
    columns = ["median", "mean", "low", "high", "spread", "judged"]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["metric", "row"])
    return table.astype({"judged": int})


def at_a_glance(scores: pd.DataFrame, what: str = "median") -> pd.DataFrame:
    """One column of the summary, metrics x rows."""
    wide = summary(scores)[what].unstack("row")
    return wide.loc[[m for m in METRICS if m in wide.index], [row for row in ROWS if row in wide.columns]]


def against(scores: pd.DataFrame, row: str = "perturbed-mean") -> pd.DataFrame:
    """The model beside one row on the split it was given, perturbation by perturbation: the mean `difference`, above 0
    where the model is better, its standard `error` over perturbations, and a `verdict`, model, even (within two
    errors) or the row's name. The error is that of other perturbations; the noise of the controls is all rows'."""
    lines = {}
    for metric, both in _paired(scores, row).items():
        apart, error = metrics.paired(*((-1 if metric in LOW else 1) * both.T))
        rounding = 1e-5 * np.abs(both).mean()
        verdict = "even" if abs(apart) <= max(2 * error, rounding) else "model" if apart > 0 else row
        lines[metric] = [apart, error, verdict]
    return pd.DataFrame.from_dict(lines, orient="index", columns=["difference", "error", "verdict"])


def won(scores: pd.DataFrame) -> str:
    """In which metrics one mean for all perturbations beats the model, in words."""
    try:
        beside = against(scores)
    except Refused:
        return "one mean for all perturbations: there are no two on which it stands beside the model"
    of = lambda verdict: ", ".join(beside.index[beside["verdict"] == verdict]) or "nothing"
    return f"one mean for all perturbations beats the model in: {of('perturbed-mean')}; is even in: {of('even')}"


def _paired(scores: pd.DataFrame, row: str) -> dict[str, np.ndarray]:
    """The model and a row (N, 2) on the given split, of each metric and the perturbations that both have."""
    given = scores[scores["split"] == 0].pivot(index="perturbation", columns=["metric", "row"], values="value")
    columns = {m: [(m, "model"), (m, row)] for m in METRICS if {(m, "model"), (m, row)} <= set(given.columns)}
    both = {metric: given[of].dropna().to_numpy() for metric, of in columns.items()}
    if not (both := {metric: values for metric, values in both.items() if len(values) > 1}):
        raise Refused(f"there is no row {row!r} beside the model, or no two perturbations that both have")
    return both


def overall(scores: pd.DataFrame, row: str = "perturbed-mean") -> pd.Series:
    """How far the model has come from a row to perfect, of each metric, and as "overall" their mean: the score of
    cell-eval (Arc Institute), here over all metrics that both have.

    Of means over perturbations, on the given split: 1 - model / row where low is good, else (model - row) / (1 - row),
    and 0 for whatever is below, so that what a model does worse than the row costs it nothing.

    >>> of = lambda *values: dict(zip(("MSE", "discrimination", "DE direction"), map(np.array, values)))
    >>> told = [("perturbed-mean", 0, of([2.0, 2.0], [0.5, 0.5], [0.8, 0.8]))]
    >>> told += [("model", 0, of([1.0, 2.0], [0.9, 0.7], [0.6, 0.6]))]
    >>> overall(long(told, ["A", "B"])).round(3).to_dict()
    {'MSE': 0.25, 'discrimination': 0.6, 'DE direction': 0.0, 'overall': 0.283}
    """
    found = {}
    for metric, both in _paired(scores, row).items():
        model, base = both.mean(0)
        left = base if metric in LOW else 1 - base
        gained = base - model if metric in LOW else model - base
        found[metric] = max(gained / left, 0.0) if left > 0 else 0.0
    return pd.Series(found | {"overall": float(np.mean([*found.values()]))})


def draw(scores: pd.DataFrame):
    """A panel a metric, a line a row: the median over perturbations, and where nine in ten of them lie. Returns the
    figure."""
    table = summary(scores)
    shown = [m for m in METRICS if m in table.index.get_level_values(0)]
    rows = [row for row in ROWS if row in table.index.get_level_values(1)][::-1]
    width = min(len(shown), 4)
    height = -(-len(shown) // width)
    figure, axes = plt.subplots(
        height, width, figsize=(2.1 * width + 1, 0.6 + 1.7 * height), sharey=True, squeeze=False
    )
    for metric, ax in zip(shown, axes.flat):
        of = table.loc[metric].reindex(rows)
        colors = [plot.CYCLE[1] if row == "model" else plot.CYCLE[0] if row != "ceiling" else plot.GREY for row in rows]
        ax.hlines(range(len(rows)), of["low"], of["high"], colors=colors, lw=1.2, alpha=0.6)
        ax.scatter(of["median"], range(len(rows)), c=colors, s=16, zorder=3)
        ax.set_title(f"{metric}{', low is good' if metric in LOW else ''}", fontsize=8)
        ax.set_yticks(range(len(rows)), rows)
        ax.margins(y=0.08)
        if of["low"].min() < 0 < of["high"].max():
            ax.axvline(0, color=plot.GREY, lw=0.6, ls=":")
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    return figure
