"""Where a simulated screen begins: its genes, what moves them together, how noisy they are.

All logs are natural. Constants without a source are choices of design.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm

from lab.errors import Refused

SPACING, REACH, DECAY = 5e4, 1e5, 5e4  # bases between neighbouring genes; how far a cis effect reaches; its decay
MEMBER, POSITIVE = 0.1, 0.85  # share of genes in a module; of its members that it moves up


def table(random, n, spread, annotation, expression, sets) -> pd.DataFrame:
    """Genes (G rows): `chromosome`, `start`, and `share` of the UMIs of a control cell. Where several tables are given,
    the genes are drawn from those that all of them have."""
    given = [t.index for t in (expression, sets) if t is not None]
    shared = lambda names: [name for name in names if all(name in index for index in given)]
    if annotation is None:
        names = chosen(random, shared(given[0]) if given else [f"gene {i + 1}" for i in range(n)], n)
        start = np.cumsum(random.exponential(SPACING, n)).astype(int)
        where = pd.DataFrame({"chromosome": (np.arange(n) * 4 // n + 1).astype(str), "start": start}, index=names)
    else:
        where = annotation.rename(columns={"chr": "chromosome"})
        where = where.set_index("symbol") if "symbol" in where else where
        where = where.loc[~where.index.duplicated(), ["chromosome", "start"]].astype({"chromosome": str})
        where = where.sort_values(["chromosome", "start"])
        where = where.loc[chosen(random, shared(where.index), n)].rename_axis(None)
    if expression is not None:
        mean = expression["mean"].reindex(where.index).to_numpy(float)
    else:
        mean = np.exp(spread * normal_quantiles(random, n))
    return where.assign(share=mean / mean.sum())


def normal_quantiles(random, n: int) -> np.ndarray:
    """The quantiles of N(0, 1) in random order (n,): every seed has the same values, only elsewhere."""
    return norm.ppf((random.permutation(n) + 0.5) / n)


def chosen(random, names: list, n: int, run: int = 5) -> list:
    """`n` of the names in their order, in runs of neighbours, so that cis effects have neighbours to reach."""
    if len(names) < n:
        raise Refused(f"the tables share {len(names)} genes and {n} are asked; lower n_genes, or pass larger ones")
    first = np.sort(random.permutation(-(-len(names) // run))[: -(-n // run) + 1]) * run
    return [names[i] for i in (first[:, None] + np.arange(run)).ravel() if i < len(names)][:n]


def modules(random, names, k, sets) -> pd.DataFrame:
    """Loadings (G, K): how far a gene's log rate moves with a module's activity. Modules overlap."""
    if sets is None:
        sets = pd.DataFrame(random.random((len(names), k)) < MEMBER, names, [f"module {i + 1}" for i in range(k)])
    sets = sets.reindex(names).fillna(0).astype(float)
    if not sets.isin([0, 1]).all(axis=None):
        return sets  # loadings already
    sets = sets.loc[:, sets.sum() >= 3]
    if sets.empty:
        raise Refused("no gene set has three of the genes; gene_sets is a table of genes x sets, as programmes() gives")
    size = random.normal(0.9, 0.4, sets.shape) * np.where(random.random(sets.shape) < POSITIVE, 1, -1)
    return sets * size


def unit(loadings) -> np.ndarray:
    """Loadings (G, K) whose members have root mean square 1."""
    w = loadings.to_numpy()
    return w / np.sqrt((w**2).sum(0) / np.maximum((w != 0).sum(0), 1)).clip(1e-12)


def cycle(random, names, size) -> pd.DataFrame:
    """Loadings (G, 2) on the S and the G2M programme, each with a gene in twenty."""
    kind = random.choice(3, len(names), p=(0.9, 0.05, 0.05))
    loadings = size * np.stack([kind == 1, kind == 2], 1) * random.uniform(0.5, 1.5, (len(names), 1))
    return pd.DataFrame(loadings, names, ["S", "G2M"])


def noise(random, table, variance, depth, dispersion, expression) -> pd.DataFrame:
    """`base` and `theta` of every gene, so that in control cells the mean is its share of `depth` and Var = mean +
    phi mean^2, of which `variance` (G,), that of the log rate, makes a part and the negative binomial the rest."""
    variance = variance.to_numpy()
    size, slope, scatter = dispersion
    phi = size * (depth * table["share"]) ** slope * np.exp(random.normal(0, scatter, len(table)))
    if expression is not None and "phi" in expression:
        phi = expression["phi"].reindex(table.index)
    rest = np.maximum((1 + phi) * np.exp(-variance) - 1, 0.1 * phi)
    return table.assign(base=np.log(table["share"]) - variance / 2, theta=1 / rest)


def local(table, names, cis) -> pd.DataFrame:
    """Weights (G, P): 1 for the target, `cis` exp(-distance / 50 kb) for genes within 100 kb on its chromosome."""
    start, where, at = table["start"].to_numpy(), table["chromosome"].to_numpy(), table.index.get_indexer(names)
    distance = np.abs(start[:, None] - start[at])
    weight = cis * np.exp(-distance / DECAY) * ((distance < REACH) & (where[:, None] == where[at]))
    weight[at, range(len(at))] = 1
    return pd.DataFrame(weight, table.index, names)
