"""Lines for `python -m lab`, small simulated cells that they read, and the table of models: a new family is a row."""

import json
import sys

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.command import main

QUICK = ["--epochs", "1", "--n-hidden", "8", "--n-latent", "2"]
SMALL = ["--n-hidden", "32", "--n-latent", "4"]
SETTINGS = [*SMALL, "--epochs", "60", "--lr", "0.005"]
TREATED = ["--perturbation", "batch", "--control", "day 0"]
MODELS = {  # the command of each recipe: options with which it trains in a second or two
    "vae": SMALL,
    "cvae": [*SMALL, "--condition", "batch", "--condition", "cell_type"],
    "beta-vae": [*SMALL, "--warm-up", "200"],
    "iwae": [*SMALL, "--k", "3", "--doubly"],
    "ddpm": ["--n-hidden", "32", "--coordinates", "5", "--condition", "batch", "--condition", "cell_type"],
    "flow": ["--n-hidden", "32", "--coordinates", "5", "--couple", "--condition", "batch", "--condition", "cell_type"],
    "ebm": ["--n-hidden", "32", "--coordinates", "5"],
    "jepa": ["--n-latent", "4"],
    "rssm": [*SMALL, "--track", "well", "--time", "hour", "--window", "4"],
    "scgen": [*SMALL, *TREATED, "--group", "cell_type"],
    "cpa": [*SMALL, *TREATED],
    "gears": ["--n-hidden", "32", "--neighbours", "5", *TREATED],
    "causal-vae": [*SMALL, *TREATED],
    "perturb-diffusion": ["--n-hidden", "32", "--coordinates", "5", *TREATED],
    "perturb-flow": ["--n-hidden", "32", "--coordinates", "5", *TREATED],
    "bimamba": ["--width", "8", "--n-state", "2", "--layers", "1", "--n-pathways", "0", *TREATED],
}


def simulated(n_cells=200, n_genes=50, seed=0):
    """Two cell types whose genes differ threefold, negative-binomial counts (theta = 3), names in no order; ten wells,
    a cell an hour in each, without a course."""
    random = np.random.default_rng(seed)
    profile = random.gamma(1, 4, (2, n_genes)) * np.repeat([[1, 3], [3, 1]], n_genes // 2, axis=1)[:, :n_genes]
    kind = random.integers(0, 2, n_cells)
    counts = random.poisson(random.gamma(3, profile[kind] / 3)).astype(np.int32)
    counts[:, 0] += 1
    names = [f"cell-{i}" for i in random.permutation(n_cells)]
    batch = [f"day {i % 3}" for i in range(n_cells)]
    obs = pd.DataFrame({"cell_type": pd.Categorical.from_codes(kind, ["A", "B"]), "batch": batch}, names)
    obs["well"], obs["hour"] = [f"well {i % 10}" for i in range(n_cells)], np.arange(n_cells) // 10
    var = pd.DataFrame(index=[f"gene-{i}" for i in range(n_genes)])
    return ad.AnnData(layers={"counts": sparse.csr_matrix(counts)}, obs=obs, var=var)


def written(folder, change=None, n_cells=20, n_genes=10, name="cells.h5ad"):
    """The path of an .h5ad with small simulated cells after `change(cells)`, which may return other cells."""
    cells = simulated(n_cells, n_genes)
    changed = change(cells) if change else None
    (cells if changed is None else changed).write_h5ad(path := folder / name)
    return path


def lines(path, out, *options, model="vae"):
    """A line that trains."""
    return ["train", model, "--data", str(path), "--out", str(out), *options]


def status_of(*line):
    """Run a line, and end the process with its status."""
    sys.exit(main(list(line)))


def assert_same_results(one, other):
    """Two folders hold the same weights, rows and results, to the bit."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    assert records[0]["results"] == records[1]["results"] and records[0]["files"] == records[1]["files"]
    for file in filter(lambda name: name.endswith(".h5ad"), records[0]["files"]):
        tables = [ad.read_h5ad(run / file) for run in (one, other)]
        both = [dict(table.obsm) or {"X": table.X} for table in tables]
        assert set(both[0]) == set(both[1]) and len(both[0]) == 1
        for key in both[0]:
            np.testing.assert_array_equal(both[0][key], both[1][key])
