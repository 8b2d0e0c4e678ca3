"""Processes of their own for test_resume.py: a training run that kills itself, with SIGKILL, at a chosen moment."""

import os
import signal
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lab.data import blocks, loader, read
from lab.train import checkpoint, fit

STEPS, EVERY = 23, 4  # 40 cells by 8: five minibatches an epoch, so that saves fall everywhere in one


def counts(seed, n=40):
    x = np.random.default_rng(seed).poisson(3, (n, 6)) + 1
    return ad.AnnData(np.zeros(x.shape, np.float32), layers={"counts": x})


def as_dict(rows):
    return {"x": torch.stack([x for (x,) in rows])}


def batches(kind):
    """Each way in which an epoch's order may be drawn."""
    if kind == "lab.data.loader":
        return loader(counts(0), size=8, seed=5)
    if kind == "on disk":
        blocks.BUFFER_BYTES, blocks.FEWEST = 300, 2  # of the 40 cells' 960 bytes
        with tempfile.TemporaryDirectory() as folder:
            counts(0).write_h5ad(Path(folder, "cells.h5ad"))
            return loader(read(Path(folder, "cells.h5ad"), on_disk=True), size=8, seed=5)  # it stays open
    x = torch.from_numpy(counts(0).layers["counts"]).float()
    if kind == "list":
        return [{"x": part} for part in x.split(8)]
    own = torch.Generator().manual_seed(6) if kind == "own generator" else None
    return DataLoader(TensorDataset(x), batch_size=8, shuffle=True, generator=own, collate_fn=as_dict)


class Model(nn.Module):
    """Dropout and a noisy latent draw random numbers; batch norm keeps a buffer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 6))

    def loss(self, b):
        x = b["x"].log1p()
        return {"loss": (self.net(x + 0.1 * torch.randn_like(x)) - x).square().sum(-1).mean()}


def run(kind, folder, out, moment=None):
    """Train; at `moment` the process is gone. What the run ends with is saved as `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, calls = Model(), 0

    def loss(b):
        nonlocal calls
        calls += model.training
        if moment == "mid-epoch" and calls == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return model.loss(b)

    if moment == "mid-save: no file yet":
        checkpoint.save_model = second(checkpoint.save_model)
    elif moment == "mid-save: weights half written":
        checkpoint.save_model = second(checkpoint.save_model, half=True)
    elif moment == "mid-save: no state yet":
        checkpoint.save_file = second(checkpoint.save_file)
    elif moment == "mid-save: not yet renamed":
        Path.rename = second(Path.rename)
    elif moment == "mid-save: the old one not yet removed":
        checkpoint.shutil.rmtree = second(checkpoint.shutil.rmtree)
    table = fit(
        model,
        loss,
        batches(kind),
        n=STEPS,
        lr=0.01,
        clip=1.0,
        validate=loader(counts(1, n=11), size=4),
        patience=3,
        checkpoint=folder,
        every=EVERY,
    )
    torch.save({"weights": model.state_dict(), "rows": table.to_dict("list")}, out)


def second(real, half=False):
    """`real` the first time; death in the second call, when one checkpoint already stands."""
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            if half:
                real(*args, **kwargs)
                os.truncate(args[1], os.path.getsize(args[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    return call
