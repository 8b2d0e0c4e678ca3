"""The layout in which the Virtual Cell Challenge takes predictions: one .h5ad that `cell-eval prep` makes a .vcc of."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lab.data.prepare import log_normalise

PERTURBATION, CONTROL = "target_gene", "non-targeting"


def vcc(predicted: ad.AnnData, control: ad.AnnData, by: str) -> ad.AnnData:
    """Predicted cells and the `control` cells that they were predicted from, all on one scale in X, sparse and single
    precision, and nothing beside it but obs["target_gene"], "non-targeting" in controls.

    Where predictions are counts, so is X, which `cell-eval prep` normalises; else X is log1p of counts per 10,000, and
    what was predicted below 0 is 0.
    """
    counts = "counts" in predicted.layers
    own = control.layers["counts"]
    if not counts:
        own = log_normalise(
            own, control.obs["n_counts"] if "n_counts" in control.obs else np.asarray(own.sum(1)).ravel()
        )
    x = predicted.layers["counts"] if counts else np.maximum(predicted.X, 0)
    x = sparse.vstack([sparse.csr_matrix(own, dtype=np.float32), sparse.csr_matrix(x, dtype=np.float32)], "csr")
    of = [CONTROL] * control.n_obs + predicted.obs[by].astype(str).tolist()
    obs = pd.DataFrame({PERTURBATION: pd.Categorical(of)}, np.arange(len(of)).astype(str))
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=predicted.var_names))
