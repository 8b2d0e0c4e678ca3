"""GEARS (cell-gears 0.1.2, Roohani 2023) on one folder of splits, at its own settings.

In an environment of its own (Python 3.11; it names no torch_geometric, which it imports, and fails with scipy 1.17):

    pip install --no-deps -r tests/foreign/run_gears.txt
    python tests/foreign/run_gears.py FOLDER OUT.h5ad EPOCHS SEED ROUNDS

Its gene ontology cannot be downloaded here: gene sets of the folder stand for the terms, a gene of none for itself.
Own: 20 epochs, batches of 32, one round; its rate is halved at every epoch, so all are worth two, and the epoch is
chosen on a tenth of the perturbations. A further round calls its `train` again, on the same weights, at the first rate.
"""

import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

import cells
import numpy as np
import pandas as pd
import torch
from gears import GEARS, PertData
from scipy.sparse import csr_matrix
from torch_geometric.loader import DataLoader

folder, out = (Path(word).resolve() for word in sys.argv[1:3])
epochs, seed, rounds = map(int, sys.argv[3:])
start, train, controls = time.monotonic(), cells.read(folder, "train"), cells.read(folder, "control_a")
train.X = csr_matrix(cells.logs(train))
train.var["gene_name"] = list(train.var_names)
train.obs["condition"] = [
    "ctrl" if name == "control" else name if "+" in name else f"{name}+ctrl" for name in train.obs["perturbation"]
]

os.chdir(tempfile.mkdtemp())
Path("data").mkdir()
sets = pd.read_csv(folder / "gene_sets.csv", index_col=0)
terms = {gene: set(row.index[row > 0]) or {gene} for gene, row in sets.iterrows()}
Path("data/gene2go_all.pkl").write_bytes(pickle.dumps(terms))
edges = [(a, b, len(terms[a] & terms[b]) / len(terms[a] | terms[b])) for a in terms for b in terms]
edges = pd.DataFrame([e for e in edges if e[2] > 0.1], columns=["source", "target", "importance"])
edges.to_csv("data/go_essential_own.csv", index=False)

np.random.seed(seed)  # noqa: NPY002, which it draws from
data = PertData("data", default_pert_graph=False)
data.new_data_process("own", adata=train)
data.load(data_path="data/own")
data.prepare_split(split="no_test", seed=seed + 1)
data.get_dataloader(batch_size=32, test_batch_size=128)
torch.manual_seed(seed)
model = GEARS(data, device="cpu")
model.model_initialize(hidden_size=64)
for _ in range(rounds):
    model.train(epochs=epochs, lr=1e-3)
model.best_model.eval()

predicted = {}
for name in cells.names(folder, {"seen", "single", "pair 2/2", "pair 1/2", "pair 0/2"}):
    at = data.get_pert_idx(name)
    graphs = [data.create_cell_graph(x[None], x[None], [-1], name, at) for x in cells.logs(controls)]
    with torch.no_grad():
        predicted[name] = np.concatenate([model.best_model(batch).numpy() for batch in DataLoader(graphs, 128)])
cells.write(out, controls, predicted)
print(f"{rounds * epochs} epochs, {time.monotonic() - start:.0f} s")
