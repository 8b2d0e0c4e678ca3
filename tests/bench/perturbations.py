"""What it takes to judge predicted perturbations: seconds and memory of `perturb.evaluate` with every row."""

import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
from samples import PEAK
from scipy import sparse

from lab import perturb

JUDGED, KNOWN, CELLS, CONTROLS, GENES = 300, 100, 100, 1000, 2000  # controls in each half
ALONE = (
    PEAK
    + """import sys, time
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(2)
from perturbations import evaluated, screen
sets = screen({judged}, {known}, {cells}, {controls}, {genes})
before, start, spent = peak(), time.perf_counter(), time.process_time()
evaluated(sets)
print(time.perf_counter() - start, time.process_time() - spent, peak() - before, peak())"""
)


def screen(judged=JUDGED, known=KNOWN, cells=CELLS, controls=CONTROLS, genes=GENES, seed=0) -> dict:
    """Sparse counts of two thousand molecules a cell: unseen singles, and as many doubles of known singles as there are
    known; predicted are other cells of the same law. Features are noisy effects, gene sets random."""
    random = np.random.default_rng(seed)
    singles = [f"G{i}" for i in range(known)]
    doubles = [f"{one}+{other}" for one, other in zip(singles, singles[1:] + singles[:1])][: judged // 2]
    names = [*doubles, *(f"G{known + i}" for i in range(judged - len(doubles)))]
    own = {f"G{i}": 0.4 * random.normal(size=genes) * (random.random(genes) < 0.1) for i in range(known + judged)}
    base, shared = random.normal(0, 1.7, genes), 0.2 * random.normal(size=genes)

    def drawn(of, n, tag):
        parts = []
        for name in of:
            shift = 0 * base if name == "control" else shared + sum(own[part] for part in name.split("+"))
            rate = np.exp(base + shift)
            mean = 2000 * rate / rate.sum() * random.lognormal(0, 0.3, (n, 1))
            parts.append(sparse.csr_matrix(random.poisson(random.gamma(2, mean / 2)).astype(np.int32)))
        obs = pd.DataFrame({"perturbation": np.repeat(list(of), n)}, [f"{tag}{i}" for i in range(n * len(of))])
        var = pd.DataFrame(index=[f"G{i}" for i in range(genes)])
        return ad.AnnData(layers={"counts": sparse.vstack(parts, "csr")}, obs=obs, var=var)

    programmes = random.normal(size=(genes, 20))
    features = pd.DataFrame({name: sum(own[p] for p in name.split("+")) @ programmes for name in [*singles, *names]}).T
    return {
        "predicted": drawn(names, cells, "p"),
        "truth": drawn(names, cells, "t"),
        "control": drawn(["control"], controls, "a"),
        "truth_control": drawn(["control"], controls, "b"),
        "train": drawn(singles, cells, "k"),
        "features": features,
        "gene_sets": pd.DataFrame(random.random((genes, 50)) < 0.05, [f"G{i}" for i in range(genes)]).astype(int),
    }


def evaluated(sets: dict) -> pd.DataFrame:
    """Every row and metric over 20 splits."""
    sets = dict(sets)
    return perturb.evaluate(sets.pop("predicted"), sets.pop("truth"), **sets)


def cost(**size) -> tuple[float, float, float, float]:
    """Seconds on the wall and of the processor, on two threads; megabytes beside the cells, and of the process."""
    default = {"judged": JUDGED, "known": KNOWN, "cells": CELLS, "controls": CONTROLS, "genes": GENES}
    code = ALONE.format(here=str(__file__).rsplit("/", 1)[0], **(default | size))
    passive = os.environ | {"OMP_WAIT_POLICY": "passive"}  # threads that wait count no seconds
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=passive).stdout
    wall, cpu, beside, whole = map(float, said.split())
    return wall, cpu, beside / 1000, whole / 1000


def table() -> None:
    """Print it."""
    wall, cpu, beside, whole = cost()
    print(f"\nperturb.evaluate, {JUDGED} perturbations of {CELLS} cells x {GENES:,} genes, {2 * CONTROLS:,} controls,")
    print(f"all rows, 20 splits, two threads: {wall:.0f} s on the wall, {cpu:.0f} s of the processor,", end=" ")
    print(f"{beside:.0f} MB beside the cells, {whole:.0f} MB in all", flush=True)
