"""Run by test_two_processes.py under `torchrun --nproc_per_node 2`, and again in one process: the same training, told
as JSON.

float64 and noise that travels in the minibatch make the two comparable to rounding.
"""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lab.data import blocks, loader, read
from lab.train import checkpoint, fit, steps

CELLS, SIZE, STEPS = 96, 16, 10


class Cells(torch.utils.data.Dataset):
    """x (96, 3) and the noise of each cell (96, 2)."""

    def __init__(self):
        random = torch.Generator().manual_seed(7)
        self.columns = {
            "x": torch.randn(CELLS, 3, generator=random, dtype=torch.float64),
            "noise": torch.randn(CELLS, 2, generator=random, dtype=torch.float64),
        }

    def __len__(self):
        return CELLS

    def __getitem__(self, row):
        return {name: column[row] for name, column in self.columns.items()}


class Model(nn.Module):
    """A small VAE without `forward`, as a loss may call any method; `spare` is trainable, and nothing uses it."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 2), nn.Linear(2, 3)
        self.spare = nn.Parameter(torch.ones(2))

    def decode(self, b):
        z = self.encoder(b["x"])
        return z, self.decoder(z + 0.3 * b["noise"])


def build(seed):
    torch.manual_seed(seed)
    return Model().double()


def reconstruction(model):
    def loss(b):
        z, x = model.decode(b)
        return {"loss": (x - b["x"]).square().sum(-1).mean() + z.square().sum(-1).mean(), "size": float(len(x))}

    return loss


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def batches():
    return DataLoader(Cells(), batch_size=SIZE, shuffle=True, generator=torch.Generator().manual_seed(3))


def joint(model):
    return [row for row in steps(model, reconstruction(model), batches(), n=STEPS, lr=0.01)]


def unwrapped(model):
    """The mistake: DistributedDataParallel around the model, while the loss calls the model itself."""
    accelerator = checkpoint.accelerator()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if accelerator.num_processes > 1 else model
    mine = prepare_data_loader(batches(), split_batches=True, rng_types=["generator"])
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01)
    for _, b in zip(range(STEPS), (b for _ in range(STEPS) for b in mine)):
        optimizer.zero_grad()
        reconstruction(model)(b)["loss"].backward()
        optimizer.step()


def pair(model, critic):
    """Two networks, each with its own loss, advanced in turn: the model's loss runs through the critic and back."""
    fool = lambda b: {"loss": reconstruction(model)(b)["loss"] + critic(model.decode(b)[0]).mean()}
    tell = lambda b: {"loss": (critic(model.decode(b)[0].detach()) - 1).square().mean()}
    for _ in zip(
        steps(model, fool, batches(), n=STEPS, lr=0.01), steps(critic, tell, batches(), n=STEPS, lr=0.01), strict=True
    ):
        pass


def served(batches):
    """The counts of an epoch's minibatches, as a loss meets them."""
    seen, probe = [], nn.Linear(1, 1)
    for _ in steps(probe, lambda b: seen.append(b["x"]) or {"loss": probe(b["x"][:, :1]).mean()}, batches, n=6):
        pass
    return seen


def main(folder):
    accelerator = checkpoint.accelerator()
    print("processes", accelerator.num_processes)
    out = {"num_processes": accelerator.num_processes}
    model = build(seed=accelerator.process_index)  # DistributedDataParallel starts every rank from rank 0's weights
    out["reported"] = joint(model)
    out["joint"] = accelerator.gather(torch.tensor([weights(model)])).tolist()

    model = build(seed=0)
    unwrapped(model)
    out["unwrapped"] = accelerator.gather(torch.tensor([weights(model)])).tolist()

    model, critic = build(seed=0), nn.Linear(2, 1).double()
    pair(model, critic)
    out["pair"] = weights(model) + weights(critic)

    model = build(seed=0)
    held_out = [{name: column[:n] for name, column in Cells().columns.items()} for n in (5, 9)]
    given = {"lr": 0.01, "validate": held_out, "patience": 3, "every": 2, "checkpoint": folder}
    fit(model, reconstruction(model), batches(), n=5, **given)
    torch.manual_seed(99)
    model = build(seed=1)
    table = fit(model, reconstruction(model), batches(), n=STEPS, **given)
    out["resumed"], out["val_loss"] = weights(model), table["val_loss"].dropna().tolist()

    counts = ad.AnnData(np.zeros((CELLS, 2)), layers={"counts": np.arange(1, 2 * CELLS + 1).reshape(CELLS, 2)})
    file, (blocks.BUFFER_BYTES, blocks.FEWEST) = Path(folder, "cells.h5ad"), (200, 2)  # of the cells' 768 bytes
    if accelerator.is_main_process:
        counts.write_h5ad(file)
    accelerator.wait_for_everyone()
    for name, cells in (("loader", counts), ("on disk", read(file, on_disk=True))):
        out[name] = accelerator.gather(torch.stack(served(loader(cells, size=SIZE)))).tolist()  # (6 P, SIZE / P, 2)

    if accelerator.num_processes > 1:
        try:
            steps(model, reconstruction(model), [], n=1)
        except ValueError as error:
            out["refused"] = str(error)
    if accelerator.is_main_process:
        print("RESULT" + json.dumps(out))
    accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
