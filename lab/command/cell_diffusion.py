"""What `train ddpm` trains: a denoiser of cells' coordinates that is told their depth, and conditions where asked."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lab import denoise, diffusion, metrics, sample
from lab.data.prepare import log_normalise
from lab.metrics.report import components
from lab.nets import Coordinates, Minibatch, drop
from lab.path import when

FIRST, LAST = 8.0, -8.0  # log-SNRs from which and to which cells are made
STEPS = 100  # of the sampler, and of the bound
DROPPED = 0.1  # of the training cells, to which conditions are not told (Ho & Salimans 2022)
REPEATS = 8  # times and noises of each held-out cell, that one validation compare with the next


class CellDiffusion(nn.Module):
    """Counts -> coordinates -> noise, and back. The network of `denoiser` is told each cell's depth, as a measurement
    "log_library" in standard units, since coordinates hold none of it but for how noisy they are."""

    def __init__(self, coordinates: Coordinates, denoiser: denoise.Denoiser, conditions: Iterable[str] = ()):
        super().__init__()
        self.coordinates, self.denoiser, self.conditions = coordinates, denoiser, tuple(conditions)
        self.register_buffer("depth", torch.tensor([0.0, 1.0]))  # mean and standard deviation of log_library
        self.first = when(denoiser.path, torch.tensor(FIRST + 1)).item()

    def fit(self, batches: Iterable[Minibatch]) -> "CellDiffusion":
        """Fit the map, and the units of depth, to minibatches of training cells, which are read three times."""
        self.coordinates.fit(_Counts(batches))
        depth = torch.cat([b["log_library"] for b in batches])
        self.depth.copy_(torch.stack([depth.mean(), depth.std().clamp(min=1e-3)]))
        return self

    def told(self, b: Minibatch) -> Minibatch:
        """The minibatch as the network is told of it: its depth in standard units."""
        return b | {"log_library": (b["log_library"] - self.depth[0]) / self.depth[1]}

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`denoise.loss` of the coordinates, at times whose log-SNR is below 9. In training a tenth of the cells lose
        their conditions; in evaluation every cell is told its own, and has eight times."""
        z, b = self.coordinates(b["x"]), self.told(b)
        if self.training and self.conditions:
            b = drop(b, *self.conditions, p=DROPPED)
        if not self.training:
            z, b = z.repeat(REPEATS, 1), {name: torch.cat(REPEATS * [value]) for name, value in b.items()}
        order = torch.randperm(len(z), device=z.device)
        t = (order + 1 - torch.rand((), device=z.device)) / len(z)  # each B-th of (0, 1] has one
        return denoise.loss(self.denoiser, b | {"x": z, "t": self.first + (1 - self.first) * t})

    @torch.no_grad()
    def draw(self, b: Minibatch, *, scale: float = 1.0) -> Tensor:
        """Counts (B, G) of new cells with the depths and conditions of `b`, by a hundred steps of DDPM, even in
        log-SNR. `scale` is that of `denoise.guided`: 1 takes the conditions as they are."""
        told, path = self.told(b), self.denoiser.path
        field = self.denoiser if scale == 1 else denoise.guided(self.denoiser, told, scale=scale)
        times = when(path, torch.linspace(LAST, FIRST, STEPS + 1)).to(self.depth)
        times = torch.cat([times, times.new_zeros(1)])
        x = path.sigma(times[0]) * torch.randn(len(b["log_library"]), self.coordinates.n_out, device=times.device)
        z = sample.last(sample.ddim(lambda x, t: field(x, t, told), x, times, path, eta=1.0))
        return self.coordinates.draw(z, b["log_library"])

    def bound(self, b: Minibatch) -> Tensor:
        """`diffusion.bound` of the coordinates, (B,), in nats a coordinate, for the chain that `draw` walks."""
        times = when(self.denoiser.path, torch.linspace(FIRST, LAST, STEPS + 1)).to(self.depth)
        z, std = self.coordinates(b["x"]), self.denoiser.path.sigma(times[-1])
        return diffusion.bound(self.denoiser, z, self.told(b), times=times, prior_std=std) / z.shape[1]


def remembered(model: CellDiffusion, cells, n: int = 500) -> float:
    """The share of drawn cells, `n` at most, that lie nearer to a training cell than to a held-out one, among as many
    of each; about 1/2 where nothing is remembered. They have the depths and conditions of other training cells.
    `cells` are the run's."""
    train, test = (_shuffled(which) for which in (~cells.held_out, cells.held_out))
    n = min(n, len(test), (len(train) + 1) // 2)
    of = lambda rows: cells.everyone.dataset.__getitems__(rows.tolist())
    told = {name: value.to(model.depth.device) for name, value in of(train[-n:]).items()}
    known = torch.cat([of(train[:n])["x"], of(test[:n])["x"]]).numpy()
    known, drawn = (log_normalise(x, x.sum(1)).toarray() for x in (known, model.draw(told).cpu().numpy()))
    known, drawn = components(known, drawn)
    return metrics.closer_to_training(drawn, known[:n], known[n:])


class _Counts:
    """The counts of minibatches, as often as one asks."""

    def __init__(self, batches: Iterable[Minibatch]):
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return (b["x"] for b in self.batches)


def _shuffled(which: np.ndarray) -> Tensor:
    rows = torch.from_numpy(np.flatnonzero(which))
    return rows[torch.randperm(len(rows))]
