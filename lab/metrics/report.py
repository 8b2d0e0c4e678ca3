"""How good samples are, in one table: every row beside two real samples, and beside the simplest draw there is."""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from lab.errors import Refused

from .cells import Cells, assembled, drawn_by_profile
from .classifiers import classifier_test, transfer_accuracy
from .coverage import closer_to_training, copies, coverage
from .distances import energy_distance, frechet_distance, mmd

SPLITS = 19  # of two samples of one law, one in ten falls outside what 19 others span
FLOORS = 5  # draws of the floor: one alone may be off by a quarter of its value
COMPONENTS, CORRELATED = 20, 100
HIGH, LOW, APART = "high", "low", "apart"  # where a bad value lies: above the real ones, below, or on either side
BAD = {
    "energy distance": HIGH,
    "MMD": HIGH,
    "Fréchet distance": HIGH,
    "classifier AUC": HIGH,
    "precision": LOW,
    "recall": LOW,
    "diversity": APART,
    "gene means": HIGH,
    "gene spreads": HIGH,
    "co-expression": HIGH,
    "programmes": HIGH,
    "accuracy on real cells": LOW,
    "nearer to training": HIGH,
    "copies": HIGH,
}


def sample_report(
    real, samples, *, train=None, label: str | None = None, seed: int = 0, size: int = 1000
) -> pd.DataFrame:
    """One row a measure, columns `value`, `error`, `ceiling`, `low`, `high`, `floor`, `verdict`.

    `real` are cells that no model has seen, `samples` a model's, both AnnData with the same genes (counts in
    `layers["counts"]`, which are then normalised alike, else X) or arrays (N, D). `train`, the model's cells, adds the
    rows on memory, and makes the ceiling of a larger real sample; `label`, an obs column of all, the accuracy on real
    cells of a classifier trained on samples.

    `value` compares up to `size` cells of each, no more than the ceiling's parts can hold. `low` and `high` are what 19
    random splits of real cells into two parts of the same sizes span, `ceiling` their median: two samples of one law
    fall outside one time in ten. `error` is the standard error by random halves of both; `floor` the median value of
    five samples drawn from one negative binomial profile for each label (data that are no counts: an uncorrelated
    Gaussian), fitted as the model was to `train`, or without it to `real`, the cells that then judge it. Components are
    fitted on the two samples that are compared, pooled. Raises `Refused` for other genes, another scale, missing
    labels, and cells in both `real` and `train`.
    """
    random = np.random.default_rng(seed)
    real, samples, train = assembled(real, samples, train, label)
    known = real if train is None else real.joined(train)
    share = min(1, len(known) / (len(real) + len(samples)), size / max(len(real), len(samples)))
    n, m = int(len(real) * share), int(len(samples) * share)
    if min(n, m) < 20:  # one side is many times the other: as many of each
        n = m = min(len(real), len(samples), len(known) // 2, size)
    if n < 20:
        raise Refused(f"parts of {n} and {m} cells say nothing; give 40 real cells and 20 samples or more")

    def measured(a: Cells, b: Cells, memory: Cells | None) -> dict[str, float]:
        return _rows(a, b, memory, int(random.integers(2**31)))

    def splits(a: Cells, k: int, l: int):
        order = random.permutation(len(a))
        return a[order[:k]], a[order[k : k + l]]

    a, b = real[random.permutation(len(real))[:n]], samples[random.permutation(len(samples))[:m]]
    value = measured(a, b, train)
    own = real if train is None else train
    drawn = [drawn_by_profile(own, m, int(seed)) for seed in random.integers(2**31, size=FLOORS)]
    floor = pd.DataFrame([measured(a, b, train) for b in drawn]).median()
    among = pd.DataFrame([measured(*splits(known, n, m), None) for _ in range(SPLITS)])
    if train is not None:  # memory needs a third part that the two others have not seen
        third = [splits(real, len(real) // 2, len(real) - len(real) // 2) for _ in range(SPLITS)]
        among = among.join(pd.DataFrame([_memory(held, new, train, random) for held, new in third]))
    halves = [measured(splits(a, n // 2, 0)[0], splits(b, m // 2, 0)[0], train) for _ in range(SPLITS)]
    table = pd.DataFrame({"value": value, "error": pd.DataFrame(halves).std(), "ceiling": among.median()})
    table = table.assign(low=among.min(), high=among.max(), floor=floor).loc[list(value)]
    table["verdict"] = [_verdict(name, row) for name, row in table.iterrows()]
    table.index.name = f"{n} real, {m} samples"
    return table


def _rows(real: Cells, samples: Cells, train: Cells | None, seed: int) -> dict[str, float]:
    x, y = components(real.x, samples.x)
    near = coverage(x, y)
    rows = {
        "energy distance": energy_distance(x, y),
        "MMD": mmd(x, y),
        "Fréchet distance": frechet_distance(x, y),
        "classifier AUC": classifier_test(x, y, seed=seed).auc,
        "precision": near.precision,
        "recall": near.recall,
        "diversity": _spread(y) / _spread(x),
    } | _genes(real.x, samples.x)
    if real.programmes is not None:
        rows["programmes"] = energy_distance(real.x @ real.programmes, samples.x @ real.programmes)
    if real.labels is not None:
        rows["accuracy on real cells"] = transfer_accuracy(y, samples.labels, x, real.labels)
    return rows if train is None else rows | _memory(real, samples, train, np.random.default_rng(seed))


def components(x, y, n: int = COMPONENTS) -> tuple[np.ndarray, np.ndarray]:
    """Both samples on the first principal components of the two pooled, in the units of x. Components of one side alone
    shrink the other: two halves of the same cells are then told apart."""
    both = np.concatenate([x, y])
    n = min(n, *both.shape)
    z = PCA(n, svd_solver="full" if min(both.shape) < 100 else "randomized", random_state=0).fit_transform(both)
    return z[: len(x)], z[len(x) :]


def _spread(z) -> float:
    return float(np.sqrt(z.var(0).sum()))


def _genes(x, y) -> dict[str, float]:
    """Root mean squared differences over genes: of means and of standard deviations, in units of the pooled one, and of
    the correlations among the 100 that vary most."""
    scale = np.sqrt((x.var(0) + y.var(0)) / 2)
    seen = scale > 0
    x, y, scale = x[:, seen], y[:, seen], scale[seen]
    rows = {
        "gene means": np.sqrt(np.mean(((x.mean(0) - y.mean(0)) / scale) ** 2)),
        "gene spreads": np.sqrt(np.mean(((x.std(0) - y.std(0)) / scale) ** 2)),
    }
    most = np.argsort(-scale, kind="stable")[:CORRELATED]
    if len(most) > 1:
        of_x, of_y = (_correlation(z[:, most]) for z in (x, y))
        rows["co-expression"] = np.sqrt(np.mean((of_x - of_y)[np.triu_indices(len(most), 1)] ** 2))
    return {name: float(value) for name, value in rows.items()}


def _correlation(z) -> np.ndarray:
    """Correlations, 0 for a gene that is constant."""
    z = z - z.mean(0)
    norm = np.sqrt(np.square(z).sum(0))
    z = z / np.where(norm > 0, norm, 1)
    return z.T @ z


def _memory(held_out: Cells, samples: Cells, train: Cells, random) -> dict[str, float]:
    n = min(len(held_out), len(train))
    some = train[random.permutation(len(train))[:n]]
    z, new = components(np.concatenate([held_out.x[:n], some.x]), samples.x)
    return {
        "nearer to training": closer_to_training(new, z[n:], z[:n]),
        "copies": float(copies(samples.x, train.x).sum()),
    }


def _verdict(name: str, row: pd.Series) -> str:
    """In words: where the value lies among real samples, and whether it beats the floor."""
    if row["low"] <= row["value"] <= row["high"]:
        return "as real cells"
    above = row["value"] > row["high"]
    if BAD[name] == APART:
        return "too wide" if above else "too narrow"
    if above != (BAD[name] == HIGH):
        return "closer than real cells"
    sign = 1 if BAD[name] == HIGH else -1
    return "off" if sign * row["value"] < sign * row["floor"] else "no better than the floor"
