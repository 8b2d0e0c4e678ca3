"""Small simulated screens: negative-binomial counts of controls and perturbed cells, the truth known."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab import perturb


@dataclass
class Screen:
    """Perturbed cells, controls A and B, and the log fold changes (N, G) that were drawn."""

    cells: ad.AnnData
    a: ad.AnnData
    b: ad.AnnData
    effect: pd.DataFrame

    def judged(self, predicted, **how):
        """`evaluate` on this screen."""
        return perturb.evaluate(predicted, self.cells, control=self.a, truth_control=self.b, **how)


def screen(
    n=8, cells=60, controls=60, genes=200, effect=0.0, systematic=0.0, seed=0, names=None, replicates=0, depth=2000
):
    """`n` perturbations of `cells` cells each and twice `controls` controls; effects are normal per gene, `systematic`
    the part of every cell that was perturbed at all. Names P0, P1, ... or those given; of A+B the sum of both."""
    random = np.random.default_rng(seed)
    names = names or [f"P{i}" for i in range(n)]
    rate = np.sort(random.normal(0, 1.2, genes))
    random.shuffle(rate)
    shared, own = systematic * random.normal(size=genes), {}
    for part in dict.fromkeys("+".join(names).split("+")):
        own[part] = effect * random.normal(size=genes)
    drawn = {name: sum(own[part] for part in name.split("+")) for name in names}
    of = np.repeat(["control", *names], [2 * controls] + [cells] * len(names))
    shift = np.array([0 * rate if name == "control" else shared + drawn[name] for name in of])
    lane = random.integers(max(replicates, 1), size=len(of))
    shift = shift + 0.1 * random.normal(size=(max(replicates, 1), genes))[lane] * (replicates > 0)
    share = np.exp(rate + shift)
    mean = depth * share / share.sum(1, keepdims=True) * random.lognormal(0, 0.3, (len(of), 1))
    counts = random.poisson(random.gamma(2, mean / 2)).astype(np.int32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"perturbation": of, "donor": [f"d{i}" for i in lane]}, [f"c{i}" for i in range(len(of))])
    every = ad.AnnData(layers={"counts": sparse.csr_matrix(counts)}, obs=obs, var=pd.DataFrame(index=gene_names(genes)))
    a, b = perturb.control_halves(every[of == "control"].copy(), seed=seed)
    return Screen(every[of != "control"].copy(), a, b, pd.DataFrame(drawn, every.var_names).T)


def gene_names(n):
    """G0, G1, ..."""
    return [f"G{i}" for i in range(n)]


def means(table, genes):
    """Predicted mean profiles, a table of perturbations x genes, as AnnData."""
    obs = pd.DataFrame({"perturbation": list(table.index)}, [f"mean of {name}" for name in table.index])
    return ad.AnnData(table.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))


def profile(cells):
    """The mean of log1p of counts per 10,000 (G,)."""
    counts = cells.layers["counts"].toarray().astype(float)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).mean(0)


def profiles(cells):
    """The same of each perturbation, as a table."""
    of = cells.obs["perturbation"].astype(str)
    rows = {name: profile(cells[(of == name).to_numpy()]) for name in sorted(set(of))}
    return pd.DataFrame(rows, cells.var_names).T


def unchanged(s):
    """The prediction that nothing changes, as means."""
    names = sorted(set(s.cells.obs["perturbation"]))
    return means(pd.DataFrame([profile(s.a)] * len(names), names, s.cells.var_names), s.cells.var_names)


def redealt(s, seed=0):
    """The same cells, labels dealt at random over all of them, controls included."""
    every = ad.concat([s.a, s.b, s.cells])
    order = np.random.default_rng(seed).permutation(every.n_obs)
    labels = every.obs["perturbation"].to_numpy()[order]
    every.obs["perturbation"] = labels
    a, b = perturb.control_halves(every[labels == "control"].copy(), seed=seed)
    return Screen(every[labels != "control"].copy(), a, b, s.effect)
