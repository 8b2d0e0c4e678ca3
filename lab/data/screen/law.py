"""The law of `perturbseq`: what a cell's expected counts are, given its perturbation and all else that is hidden.

    log rate = base + W state + cycle + batch + systematic [perturbed] + e1 c1 shift1 + e2 c2 shift2 + e1 e2 epistasis
               + local1 log(1 + e1 (fold1 - 1)) + local2 log(1 + e2 (fold2 - 1)),

with e a guide's efficiency, or 0 in a cell that escapes. The shares of UMIs are its softmax. Counts are drawn from this
function, and truth is read from it: they cannot differ. With a share `outside` of UMIs in genes that are not simulated,
the softmax's denominator is (1 - outside) sum_g exp(log rate) + outside.
"""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import norm, qmc

from lab.errors import Refused

from ..prepare import log_normalise

S, G2M = 0.65, 0.9  # where on the cycle, a circle of length 1 that begins with G1, the two programmes peak
BLOCK = 1_000  # cells drawn at a time: only these are ever dense
POPULATION = 2**12  # cells that stand for all: a power of two, as Sobol's points are even


def parameters(cells) -> dict:
    """All of `perturbseq`'s parameters as arrays, from what the cells carry; `Refused` where something is missing.

    Targets are numbered as in `shift` (G, P + 1), whose last column is no target, and conditions by `labels`.
    """
    kept = cells.uns.get("perturbseq")
    if kept is None or "shift" not in cells.varm or "state" not in cells.obsm:
        raise Refused(
            "these cells carry no truth, or what prepare() left of it; take those that lab.data.perturbseq() returned"
        )
    if cells.n_vars != (n := int(kept["knobs"]["n_genes"])):
        raise Refused(f"truth needs all {n} genes, and {cells.n_vars} are left; ask for the truth first, then cut it")
    singles, doubles = kept["singles"], kept["doubles"]
    p, pair = len(singles), [singles.index.get_indexer(doubles[name].astype(str)) for name in ("first", "second")]
    none = lambda array: np.concatenate([np.asarray(array, float), np.zeros((*np.shape(array)[:-1], 1))], -1)
    return {
        "labels": pd.Index(["control", *singles.index, *doubles.index]),
        "first": np.concatenate([[p], np.arange(p), pair[0]]).astype(int),
        "second": np.concatenate([[p], np.full(p, p), pair[1]]).astype(int),
        "c": np.concatenate([np.ones((1 + p, 2)), doubles[["c1", "c2"]].to_numpy(float)]),  # (C, 2)
        "own": np.concatenate([np.full(1 + p, len(doubles)), np.arange(len(doubles))]).astype(int),
        **{name: none(singles[name]) for name in ("cost", "arrest", "fold")},
        "efficiency": none(kept["guides"].T).T,  # (P + 1, guides)
        **{name: none(cells.varm[name]).T.copy() for name in ("shift", "local", "epistasis")},  # (P + 1, G)
        **{name: cells.varm[name].to_numpy(float) for name in ("module", "cycle", "batch")},
        "batches": cells.varm["batch"].columns,
        **{name: cells.var[name].to_numpy(float) for name in ("base", "systematic")},
        **{name: float(value) for name, value in kept["knobs"].items()},
    }


def carried(law: dict, labels, obs: pd.DataFrame) -> tuple[np.ndarray, list, list]:
    """Of cells with the perturbations `labels` (B,): the condition (B,), their one or two targets, and how much of each
    perturbation reaches the cell, its exposure e."""
    levels, inverse = np.unique(np.asarray(labels, str), return_inverse=True)
    known = law["labels"].get_indexer(levels)
    if (known < 0).any():
        some = ", ".join(law["labels"][:5])
        raise Refused(
            f"perturbation {str(levels[known < 0][0])!r} was not simulated; take one of adata.obs: {some}, ..."
        )
    condition = known[inverse]
    slot = obs["guide"].astype(str).str.rsplit("_", n=1).str[-1].astype(int).to_numpy() - 1
    targets = [law["first"][condition], law["second"][condition]]
    return condition, targets, [law["efficiency"][k, slot] * ~obs["escaped"].to_numpy(bool) for k in targets]


def place(law: dict, obs: pd.DataFrame, targets, e) -> np.ndarray:
    """Where on the cycle (B,), in [0, 1), cells are; an arrest moves all towards the beginning, which is G1."""
    return obs["cycle"].to_numpy(float) ** (1 + sum(exposure * law["arrest"][k] for k, exposure in zip(targets, e)))


def rates(law: dict, labels, obs: pd.DataFrame, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected shares (B, G) of UMIs, and how many UMIs are expected (B,), of cells that carry `labels` (B,)."""
    condition, targets, e = carried(law, labels, obs)
    log_rate = np.asarray(state) @ law["module"].T + law["base"]  # (B, G)
    log_rate += np.cos(2 * np.pi * (place(law, obs, targets, e)[:, None] - [S, G2M])) @ law["cycle"].T
    log_rate += law["batch"].T[law["batches"].get_indexer(obs["batch"])]
    log_rate += (condition > 0)[:, None] * law["systematic"]
    for k, exposure, c in zip(targets, e, law["c"][condition].T):
        log_rate += (c * exposure)[:, None] * law["shift"][k]
        log_rate += np.log1p(exposure * (law["fold"][k] - 1))[:, None] * law["local"][k]
    log_rate += (e[0] * e[1])[:, None] * law["epistasis"][law["own"][condition]]
    log_rate -= (most := log_rate.max(1, keepdims=True))
    share = np.exp(log_rate, out=log_rate)
    outside = law["outside"] * np.exp(-most)  # genes that are not simulated do not move
    share /= (1 - law["outside"]) * share.sum(1, keepdims=True) + outside
    loss = law["depth_loss"] * sum(exposure * law["cost"][k] for k, exposure in zip(targets, e))
    return share, obs["size"].to_numpy(float) * np.exp(-loss)


def with_counts(cells, seed: int):
    """The cells with counts, X and phase: drawn block by block, each block from a generator of its own."""
    law, theta, blocks, normalised = parameters(cells), cells.var["theta"].to_numpy(), [], []
    kept = 1 - law["zero_inflation"]
    for start in range(0, cells.n_obs, BLOCK):
        obs, random = cells.obs.iloc[start : start + BLOCK], np.random.default_rng((seed, start))
        share, size = rates(law, obs["perturbation"], obs, cells.obsm["state"][start : start + BLOCK])
        rate = random.standard_gamma(theta, share.shape) * share * (size[:, None] / (theta * kept))
        counts = random.poisson(rate)  # the negative binomial as a Gamma mixture of Poissons
        if kept < 1:
            counts *= random.random(counts.shape) < kept
        blocks.append(sparse.csr_matrix(counts, dtype=np.int32))
        normalised.append(log_normalise(blocks[-1], counts.sum(1)))
    cells.layers["counts"] = sparse.vstack(blocks, format="csr")
    cells.X = sparse.vstack(normalised, format="csr")
    _, *where = carried(law, cells.obs["perturbation"], cells.obs)
    phase = np.searchsorted([0.5, 0.8], place(law, cells.obs, *where), side="right")
    cells.obs["phase"] = pd.Categorical.from_codes(phase, ["G1", "S", "G2M"])
    cells.obs["n_counts"] = np.asarray(cells.layers["counts"].sum(axis=1)).ravel().astype(float)
    return cells


def population(law: dict) -> tuple[pd.DataFrame, np.ndarray]:
    """obs and states of the 4,096 cells that stand for all: every hidden quantity at evenly spread quantiles."""
    n_modules, (_, guides) = law["module"].shape[1], law["efficiency"].shape
    u = qmc.Sobol(n_modules + 4, seed=0).random(POPULATION).clip(1e-9, 1 - 1e-9)
    obs = {
        "cycle": u[:, 0],
        "batch": law["batches"][(u[:, 1] * len(law["batches"])).astype(int)],
        "guide": [f"_{slot}" for slot in (u[:, 2] * guides).astype(int) + 1],
        "escaped": u[:, 3] < law["escape"],
        "size": 1.0,
    }
    return pd.DataFrame(obs), law["state"] * norm.ppf(u[:, 4:])


def mean_share(law: dict, label: str, obs: pd.DataFrame, state: np.ndarray) -> np.ndarray:
    """Mean share of the UMIs (G,) of such cells, had all carried `label`."""
    size = 512
    parts = [
        rates(law, [label] * size, obs.iloc[i : i + size], state[i : i + size])[0].mean(0)
        for i in range(0, POPULATION, size)
    ]
    return np.mean(parts, axis=0)
