"""What `train ddpm` trains: a denoiser of cells' coordinates that is told their depth, and may be told conditions."""

import numpy as np
import torch
from torch import Tensor, nn

from lab import denoise, diffusion, metrics, sample
from lab.data.prepare import log_normalise
from lab.metrics.report import components
from lab.nets import Coordinates, Minibatch, drop
from lab.path import Path

FIRST, LAST = 8.0, -8.0  # log-SNRs between which cells are made; beyond them nothing is visible, or nothing is left
STEPS = 100  # of the sampler
DROPPED = 0.1  # of the training cells, to which conditions are not told (Ho & Salimans 2022)
REPEATS = 8  # times and noises for each held-out cell, so that one validation compares with the next


class CellDiffusion(nn.Module):
    """Counts -> coordinates -> noise, and back: `denoiser` works on `coordinates`, which depths in standard units
    accompany as the measurement "log_library"."""

    def __init__(self, coordinates: Coordinates, denoiser: denoise.Denoiser, conditions: tuple[str, ...] = ()):
        super().__init__()
        self.coordinates, self.denoiser, self.conditions = coordinates, denoiser, tuple(conditions)
        self.register_buffer("depth", torch.tensor([0.0, 1.0]))  # mean and standard deviation of log_library
        self.first = when(denoiser.path, torch.tensor(FIRST + 1)).item()

    def fit(self, batches) -> "CellDiffusion":
        """Fit the map, and the units of depth, to minibatches of training cells, which are read three times."""
        self.coordinates.fit(_Counts(batches))
        depth = torch.cat([b["log_library"] for b in batches])
        self.depth.copy_(torch.stack([depth.mean(), depth.std().clamp(min=1e-3)]))
        return self

    def told(self, b: Minibatch) -> Minibatch:
        """The minibatch as the network is told of it: its depth in standard units."""
        return b | {"log_library": (b["log_library"] - self.depth[0]) / self.depth[1]}

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`denoise.loss` at times whose log-SNR is below 9. In training a tenth of the cells lose their conditions; in
        evaluation each cell is told its own, and has eight times."""
        z, b = self.coordinates(b["x"]), self.told(b)
        if self.training and self.conditions:
            b = drop(b, *self.conditions, p=DROPPED)
        if not self.training:
            z, b = z.repeat(REPEATS, 1), {name: torch.cat([b[name]] * REPEATS) for name in b}
        order = torch.randperm(len(z), device=z.device)
        t = (order + 1 - torch.rand((), device=z.device)) / len(z)  # each B-th of (0, 1] has one
        return denoise.loss(self.denoiser, b | {"x": z, "t": self.first + (1 - self.first) * t})

    @torch.no_grad()
    def draw(self, b: Minibatch, *, scale: float = 1.0) -> Tensor:
        """Counts (B, G) of new cells with the depths and conditions of `b`, by a hundred steps of DDPM evenly spaced in
        log-SNR. `scale` guides: 0 drops the conditions, 1 takes them as they are."""
        told, path = self.told(b), self.denoiser.path
        field = self.denoiser if scale == 1 else denoise.guided(self.denoiser, told, scale=scale)
        times = when(path, torch.linspace(LAST, FIRST, STEPS + 1)).to(self.depth)
        times = torch.cat([times, times.new_zeros(1)])
        x = path.sigma(times[0]) * torch.randn(len(b["log_library"]), self.coordinates.n_out, device=times.device)
        z = sample.last(sample.ddim(lambda x, t: field(x, t, told), x, times, path, eta=1.0))
        return self.coordinates.draw(z, b["log_library"])

    def bound(self, b: Minibatch) -> Tensor:
        """A lower bound on log p(coordinates | depth, conditions), (B,), in nats a coordinate, of the chain that
        `draw` walks."""
        times = when(self.denoiser.path, torch.linspace(FIRST, LAST, STEPS + 1)).to(self.depth)
        std = self.denoiser.path.sigma(times[-1])
        z = self.coordinates(b["x"])
        return diffusion.bound(self.denoiser, z, self.told(b), times=times, prior_std=std) / z.shape[1]


def remembered(model: CellDiffusion, cells, n: int = 500) -> float:
    """The share of drawn cells, up to `n`, that lie nearer to a training cell than to a held-out one, among as many of
    each; 1/2 where nothing is remembered. Drawn cells have the depths and conditions of other training cells."""
    rows = torch.from_numpy(np.flatnonzero(~cells.held_out))
    rows, test = rows[torch.randperm(len(rows))], torch.from_numpy(np.flatnonzero(cells.held_out))
    n = min(n, len(test), (len(rows) + 1) // 2)
    of = lambda some: cells.everyone.dataset.__getitems__(some.tolist())
    told = {name: value.to(model.depth.device) for name, value in of(rows[-n:]).items()}
    known = torch.cat([of(rows[:n])["x"], of(test[torch.randperm(len(test))[:n]])["x"]]).numpy()
    known, drawn = (log_normalise(x, x.sum(1)).toarray() for x in (known, model.draw(told).cpu().numpy()))
    known, drawn = components(known, drawn)
    return metrics.closer_to_training(drawn, known[:n], known[n:])


def when(path: Path, levels: Tensor) -> Tensor:
    """The times at which the path has these log-SNRs, by bisection."""
    low, high = torch.zeros_like(levels).double(), torch.ones_like(levels).double()
    for _ in range(60):
        middle = (low + high) / 2
        early = path.log_snr(middle) > levels
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return middle.float()


class _Counts:
    """The counts of minibatches, as often as one asks."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return (b["x"] for b in self.batches)
