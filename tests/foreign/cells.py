"""What the three scripts share: a folder of splits in, a file of predicted cells out; nothing here needs `lab`."""

import json
from pathlib import Path

import anndata
import numpy as np


def read(folder, name):
    """Cells of `folder`, their counts in X, and in obs what was done to them, n_counts and a cell type."""
    cells = anndata.read_h5ad(Path(folder, f"{name}.h5ad"))
    cells = anndata.AnnData(cells.layers["counts"].astype(np.float32).tocsr(), cells.obs, cells.var[[]])
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str) if "cell_type" in cells.obs else "cell"
    return cells


def names(folder, splits):
    """The perturbations of these splits, in the order of the file."""
    told = json.loads(Path(folder, "names.json").read_text())
    return [name for name, split in told.items() if split in splits]


def logs(cells):
    """log1p of counts per 10,000 of n_counts, dense."""
    return np.log1p(cells.X.toarray() * (1e4 / cells.obs["n_counts"].to_numpy()[:, None])).astype(np.float32)


def write(path, controls, predicted):
    """Predicted log expression, name -> cells x genes, each row from a cell of `controls`."""
    cells = anndata.AnnData(np.concatenate(list(predicted.values())).astype(np.float32), var=controls.var)
    cells.obs["perturbation"] = np.repeat(list(predicted), [len(x) for x in predicted.values()])
    cells.write_h5ad(path)
