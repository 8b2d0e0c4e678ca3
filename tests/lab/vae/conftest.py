"""A count VAE of the embedded cells, trained once."""

import pytest
import torch

from lab import data, nets, train, vae


@pytest.fixture(scope="session")
def trained():
    cells = data.pbmc()
    torch.manual_seed(0)
    model = vae.count_vae(cells.n_vars, counts=nets.NB(cells.n_vars, theta=4.0))
    for _ in train.steps(model, lambda b: vae.loss(model, b), data.loader(cells), n=150, lr=5e-3):
        pass
    return cells, model
