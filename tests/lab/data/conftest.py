"""Small sets that several tests read, and a place for files that is empty at first."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from lab import data
from lab.data import public


@pytest.fixture(scope="module")
def cells():
    """The 700 embedded cells; a test that changes them copies them first."""
    return data.pbmc()


@pytest.fixture
def small():
    """20 cells x 6 genes of two cell types, counts dense and as floats."""
    adata = ad.AnnData(layers={"counts": np.random.default_rng(0).poisson(3.0, (20, 6)).astype(float)})
    adata.obs["cell_type"] = pd.Categorical(["a", "b"] * 10)
    return adata


@pytest.fixture(scope="session")
def raw():
    """A function (n, g) -> raw counts with mitochondrial genes, poor cells, dying cells, rare genes and six donors."""

    def draw(n=300, g=400, seed=0):
        random = np.random.default_rng(seed)
        counts = random.negative_binomial(2, 2 / (2 + random.gamma(0.5, 2.0, g)), (n, g))
        counts[:, :5] = random.poisson(2.0, (n, 5))
        counts[:10, 50:] = 0  # poor: at most 50 genes
        counts[10:15, :5] += 4000  # dying: mostly mitochondrial
        counts[:, -7:] = 0  # never seen
        adata = ad.AnnData(layers={"counts": sparse.csr_matrix(counts, dtype=np.int32)})
        adata.var_names = [f"MT-{i}" for i in range(5)] + [f"G{i}" for i in range(g - 5)]
        adata.obs["donor"] = [f"d{i % 6}" for i in range(n)]
        return adata

    return draw


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory, monkeypatch):
    """The folder of downloads, empty: what is on this machine decides nothing."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(public, "cache", lambda: folder)
    return folder


@pytest.fixture
def lab_data(tmp_path, monkeypatch):
    """The folder that LAB_DATA names, empty."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path
