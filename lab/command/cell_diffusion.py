"""What `train ddpm` trains: a denoiser of cells' coordinates that is told their depth, and conditions where asked."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lab import denoise, diffusion, sample
from lab.nets import Coordinates, Minibatch, drop
from lab.path import when

from .in_coordinates import InCoordinates

FIRST, LAST = 8.0, -8.0  # log-SNRs from which and to which cells are made
STEPS = 100  # of the sampler, and of the bound
DROPPED = 0.1  # of the training cells, to which conditions are not told (Ho & Salimans 2022)
REPEATS = 8  # times and noises of each held-out cell, that one validation compare with the next


class CellDiffusion(InCoordinates):
    """Counts -> coordinates -> noise, and back. The network of `denoiser` is told each cell's depth, as a measurement
    "log_library" in standard units, since coordinates hold none of it but for how noisy they are."""

    said = "held-out bound, nats a coordinate"

    def __init__(self, coordinates: Coordinates, denoiser: denoise.Denoiser, conditions: Iterable[str] = ()):
        super().__init__(coordinates)
        self.denoiser, self.conditions = denoiser, tuple(conditions)
        self.register_buffer("depth", torch.tensor([0.0, 1.0]))  # mean and standard deviation of log_library
        self.first = when(denoiser.path, torch.tensor(FIRST + 1)).item()

    def fit(self, batches: Iterable[Minibatch]) -> "CellDiffusion":
        """Fit the map, and the units of depth, to minibatches of training cells, which are read three times."""
        super().fit(batches)
        depth = torch.cat([b["log_library"] for b in batches])
        self.depth.copy_(torch.stack([depth.mean(), depth.std().clamp(min=1e-3)]))
        return self

    def told(self, b: Minibatch) -> Minibatch:
        """The minibatch as the network is told of it: its depth in standard units."""
        return b | {"log_library": (b["log_library"] - self.depth[0]) / self.depth[1]}

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`denoise.loss` of the coordinates, at times from `first` on, where the log-SNR is 9. In training a tenth of
        the cells lose their conditions; in evaluation every cell is told its own, and has eight times."""
        z, b = self.coordinates(b["x"]), self.told(b)
        if self.training and self.conditions:
            b = drop(b, *self.conditions, p=DROPPED)
        if not self.training:
            z, b = z.repeat(REPEATS, 1), {name: torch.cat(REPEATS * [value]) for name, value in b.items()}
        order = torch.randperm(len(z), device=z.device)
        t = (order + 1 - torch.rand((), device=z.device)) / len(z)  # each B-th of (0, 1] has one
        b = b | {"x": z, "t": self.first + (1 - self.first) * t}
        return denoise.loss(self.denoiser, b | {"eps": self.noise(b)})

    def noise(self, b: Minibatch) -> Tensor:
        """What each cell of `b` is mixed with, like `b["x"]`."""
        return torch.randn_like(b["x"])

    def field(self, told: Minibatch, scale: float) -> denoise.Denoiser:
        """The denoiser, guided by the conditions of `told`; `scale` is that of `denoise.guided`: 1 takes them as they
        are."""
        return self.denoiser if scale == 1 else denoise.guided(self.denoiser, told, scale=scale)

    def points(self, b: Minibatch, *, scale: float = 1.0) -> Tensor:
        """By a hundred steps of DDPM, even in log-SNR."""
        told, path = self.told(b), self.denoiser.path
        field = self.field(told, scale)
        times = when(path, torch.linspace(LAST, FIRST, STEPS + 1)).to(self.depth)
        times = torch.cat([times, times.new_zeros(1)])
        x = path.sigma(times[0]) * torch.randn(len(b["log_library"]), self.coordinates.n_out, device=times.device)
        return sample.last(sample.ddim(lambda x, t: field(x, t, told), x, times, path, eta=1.0))

    def evidence(self, batches: Iterable[Minibatch]) -> float:
        """The mean of `bound`."""
        return torch.cat([self.bound(b).cpu() for b in batches]).mean().item()

    def bound(self, b: Minibatch) -> Tensor:
        """`diffusion.bound` of the coordinates, (B,), in nats a coordinate, for the chain that `draw` walks."""
        times = when(self.denoiser.path, torch.linspace(FIRST, LAST, STEPS + 1)).to(self.depth)
        z, std = self.coordinates(b["x"]), self.denoiser.path.sigma(times[-1])
        return diffusion.bound(self.denoiser, z, self.told(b), times=times, prior_std=std) / z.shape[1]
