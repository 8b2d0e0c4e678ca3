"""Runs that several files of tests look at, made once."""

import numpy as np
import pytest
from command_line import SETTINGS, lines, written
from scipy import sparse

from lab.command import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(the file, the folder of a finished run on it): 200 cells x 50 genes, 60 epochs of 2 steps."""
    folder = tmp_path_factory.mktemp("finished")
    path = written(folder, n_cells=200, n_genes=50)
    assert main(lines(path, folder / "run", *SETTINGS)) == 0
    return path, folder / "run"


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """The same of a cvae that is told the batch: on day 1 the odd genes are tenfold."""

    def shift(cells):
        counts = cells.layers["counts"].toarray()
        counts[np.ix_(cells.obs["batch"] == "day 1", np.arange(50) % 2 == 1)] *= 10
        cells.layers["counts"] = sparse.csr_matrix(counts)

    folder = tmp_path_factory.mktemp("told")
    path = written(folder, shift, n_cells=300, n_genes=50)
    assert main(lines(path, folder / "run", *SETTINGS, "--condition", "batch", model="cvae")) == 0
    return path, folder / "run"
