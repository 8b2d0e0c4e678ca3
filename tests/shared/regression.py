"""The smallest thing that trains: a linear model, its loss, and minibatches that it can only fit partly."""

import torch
from torch import nn


def regression(seed=0, cells=8):
    """A linear model and minibatches of x -> y that it can only fit partly."""
    random = torch.Generator().manual_seed(seed)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=random))
    batches = [
        {"x": torch.randn(cells, 3, generator=random), "y": torch.randn(cells, 1, generator=random)} for _ in range(5)
    ]
    return model, lambda b: {"loss": (model(b["x"]) - b["y"]).square().mean()}, batches


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
