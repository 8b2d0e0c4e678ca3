"""What a simulated screen does to its cells: targets on a graph, guides, doubles, and which cell carries what.

All logs are natural. Constants without a source are choices of design.
"""

import numpy as np
import pandas as pd

from lab.errors import Refused

from .genes import normal_quantiles, unit

CONTROL = "control"
WEAK, STRONG = 0.3, 1.2  # median log shift of a module's members
OWN = (0.005, 0.02)  # share of genes that one target alone moves
OWN_OF_PAIR = 0.11  # share of genes that a double moves beyond what its singles explain
ALIKE = 2.0  # pairs are chosen by exp(ALIKE r), r the correlation of their shifts: in Norman its median is .40
C1, C2 = (0.84, 0.31), (0.80, 0.27)  # mean and sd: a regression then finds medians near Norman's .74 and .69
SAME = 0.85  # how often a target moves a module, or the next target, the way that most do
DUDS = 0.25  # guides that do little
FOLD = {"interference": 0.01, "activation": 6.0, "knockout": 1.0}  # of the target's mRNA at full efficiency


def common_shift(random, loadings, size) -> np.ndarray:
    """What all perturbed cells share (G,): two modules, at `size` times what a strong target does."""
    activity = random.normal(0, 1, loadings.shape[1]) * (random.permutation(loadings.shape[1]) < 2)
    return size * STRONG * (unit(loadings) @ (activity / np.linalg.norm(activity)))


def targets(random, loadings, n, *, mix, effect, fitness, arrest, fold) -> tuple:
    """Singles (P rows), their shifts (G, P) and the edges of the graph of transcription factors.

    The graph is directed, without cycles. A target acts on modules of its own and, through the targets below it, on
    theirs: from this its direction. Its class, by `mix`, says how far it goes. A few genes of its own are added.
    """
    genes_, k = loadings.index, loadings.shape[1]
    at = np.sort(random.choice(len(genes_), n, replace=False))
    names, order = genes_[at], random.permutation(n)
    graph, direct, popular = np.zeros((n, n)), np.zeros((n, k)), 1 / np.arange(1, k + 1)
    popular /= popular.sum()
    for place in range(1, n):
        if random.random() < 0.5:
            sign = 1 if random.random() < SAME else -1
            graph[order[random.integers(place)], order[place]] = sign * random.uniform(0.5, 1)
    for p in range(n):
        if not graph[p].any() or random.random() < 0.6:
            hit = random.choice(k, min(random.integers(1, 4), k), replace=False, p=popular)
            direct[p, hit] = np.abs(random.standard_t(4, len(hit))) * np.where(random.random(len(hit)) < SAME, 1, -1)
    total = np.linalg.solve(np.eye(n) - graph, direct)
    total /= np.linalg.norm(total, axis=1, keepdims=True)

    bounds = np.round(n * np.cumsum([0, *mix]) / sum(mix)).astype(int)
    kind = random.permutation(np.repeat([0, 1, 2], np.diff(bounds)))
    strength = effect * np.array([0, WEAK, STRONG])[kind] * np.exp(random.normal(0, 0.4, n))
    own = random.normal(0, 1, (len(genes_), n)) * (random.random((len(genes_), n)) < random.uniform(*OWN, n))
    shift = strength * (unit(loadings) @ total.T + own)
    shift[at, range(n)] = 0  # what happens to the target itself is `local`
    singles = pd.DataFrame(
        {
            "class": pd.Categorical.from_codes(kind, ["null", "weak", "strong"]),
            "strength": strength,
            "cost": fitness * strength * random.exponential(1, n),
            "arrest": arrest * strength * (random.random(n) < 0.3),
            "fold": fold**effect * np.exp(effect * random.normal(0, 0.3, n) * (fold > 1)),
        },
        index=names,
    )
    up, down = np.nonzero(graph)
    edges = pd.DataFrame({"regulator": names[up], "regulated": names[down], "weight": graph[up, down]})
    return singles, pd.DataFrame(shift, genes_, names), edges


def guides(random, names, n) -> pd.DataFrame:
    """Efficiencies (P, n): of the target remains Beta(1, 4) behind a good guide, half or more behind a dud."""
    dud, size = random.random((len(names), n)) < DUDS, (len(names), n)
    efficiency = np.where(dud, random.uniform(-0.1, 0.5, size).clip(0), 1 - random.beta(1, 4, size))
    return pd.DataFrame(efficiency, names, [f"guide {i + 1}" for i in range(n)])


def doubles(random, singles, shift, n, size) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs (D rows: `first`, `second`, `c1`, `c2`) of targets that do something, and what each does beyond c1 shift1 +
    c2 shift2 (G, D), on a few genes and mostly upwards. A regression of the double on its singles finds less than c1
    and c2, as what all perturbed cells share is in the double once."""
    able = singles.index[singles["class"] != "null"]
    pairs = [(a, b) for i, a in enumerate(able) for b in able[i + 1 :]]
    if n > len(pairs):
        raise Refused(f"n_doubles={n}, and {len(able)} targets with an effect make {len(pairs)} pairs; raise n_targets")
    alike = shift.corr().to_numpy()  # NaN where nothing moves
    weight = np.exp(
        ALIKE * np.nan_to_num([alike[singles.index.get_loc(a), singles.index.get_loc(b)] for a, b in pairs])
    )
    some = np.sort(random.choice(len(pairs), n, replace=False, p=weight / weight.sum())) if n else []
    table = pd.DataFrame([pairs[i] for i in some], columns=["first", "second"], dtype=str)
    table.index = table["first"] + "+" + table["second"]
    for name, (mean, std) in {"c1": C1, "c2": C2}.items():
        table[name] = np.maximum(mean + std * normal_quantiles(random, n), 0)
    shape = (len(shift), n)
    value = random.choice([1, -1], shape, p=(0.8, 0.2)) * (0.4 + random.exponential(0.3, shape))
    value *= size * (random.random(shape) < OWN_OF_PAIR)
    value[shift.index.isin(singles.index)] = 0
    return table, pd.DataFrame(value, shift.index, table.index)


def cells(random, n, singles, doubles_, n_guides, control, escape) -> pd.DataFrame:
    """obs of `n` cells: labels, guide, place on the cycle, escape. A condition's share falls with its cost."""
    cost = singles["cost"]
    total = np.concatenate([cost, cost[doubles_["first"]].to_numpy() + cost[doubles_["second"]].to_numpy()])
    share = np.exp(random.normal(0, 0.3, len(total)) - total)
    share = np.concatenate([[control], (1 - control) * share / share.sum()])
    levels = [CONTROL, *singles.index, *doubles_.index]
    code, slot = random.choice(len(levels), n, p=share), random.integers(1, n_guides + 1, n)
    label = pd.Categorical.from_codes(code, levels)
    guide = np.array(["non-targeting", *levels[1:]], object)[code]
    return pd.DataFrame(
        {
            "perturbation": label,
            "dose": (code > 0).astype(float),
            "control": code == 0,
            "nperts": (code > 0).astype(int) + (code > len(singles)),
            "guide": pd.Categorical([f"{g}_{i}" for g, i in zip(guide, slot)]),
            "cycle": random.random(n),
            "escaped": random.random(n) < escape,
        },
        index=[f"cell {i + 1}" for i in range(n)],
    )


def batches(random, names, n, size) -> pd.DataFrame:
    """Log effects (G, n) of batches."""
    return pd.DataFrame(random.normal(0, size, (len(names), n)), names, [f"batch {i + 1}" for i in range(n)])


def batch_of(random, label, names, confounding) -> pd.Categorical:
    """A batch for every cell (B,), at random, or with the probability `confounding` by its perturbation."""
    tied = random.random(len(label)) < confounding
    free = random.integers(len(names), size=len(label))
    return pd.Categorical.from_codes(np.where(tied, label.cat.codes % len(names), free), names)
