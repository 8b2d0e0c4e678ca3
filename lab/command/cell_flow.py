"""What `train flow` trains: a velocity of cells' coordinates, on the straight path from N(0, I)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab import denoise, flow, sample
from lab.errors import Refused
from lab.nets import Coordinates, Minibatch
from lab.path import linear

from .cell_diffusion import REPEATS, CellDiffusion
from .in_coordinates import steps_of

SAMPLERS = {"heun": 2, "euler": 1}  # evaluations of the network a step; dopri finds how many it needs
EVALUATIONS = 32  # of a sampler that is not told how many
BETWEEN = 32  # steps of Heun's method through which a cell's log p is followed
APART = 100.0  # what a pair costs whose depths differ by one standard deviation, beside the squared distance


class CellFlow(CellDiffusion):
    """`CellDiffusion` whose network, `net(x_t, t, b)`, says the velocity, and whose time goes down to the cells
    themselves. With `couple`, cells and noise are paired by optimal transport within each minibatch: among the cells
    with the same labels, and the better the nearer in depth, since a flow that is told something needs the whole source
    for it (C2OT)."""

    said = "held-out log p, nats a coordinate"

    def __init__(self, coordinates: Coordinates, net, conditions: Iterable[str] = (), *, couple: bool = False):
        super().__init__(coordinates, denoise.Denoiser(net, linear(), "velocity"), conditions)
        self.first, self.couple = 0.0, couple

    def noise(self, b: Minibatch) -> Tensor:
        """N(0, I), in the order of least cost where pairs are coupled: as minibatches of held-out cells are, too."""
        x0, x1 = b["x"], torch.randn_like(b["x"])
        if not self.couple:
            return x1
        which = torch.arange(len(x0), device=x0.device) // (len(x0) if self.training else len(x0) // REPEATS)
        labels = torch.stack([which, *(b[name] for name in self.conditions)])
        for alike in labels.unique(dim=1).T:
            rows = torch.where((labels == alike[:, None]).all(0))[0]
            x1[rows] = flow.couple(x0[rows], x1[rows], b["log_library"][rows], weight=APART)[1]
        return x1

    def points(
        self, b: Minibatch, *, scale: float = 1.0, sampler: str = "heun", evaluations: int | None = None
    ) -> Tensor:
        """By one of `SAMPLERS` in even steps, or by dopri."""
        if sampler == "dopri" and evaluations:
            raise Refused("dopri finds how many evaluations it needs; leave --evaluations out, or take heun")
        told = self.told(b)
        field = self.field(told, scale)
        velocity = lambda x, t: field.predict(x, t, told)
        steps = steps_of(sampler, evaluations or EVALUATIONS, SAMPLERS[sampler]) if sampler != "dopri" else 1
        times = torch.linspace(1, 0, steps + 1, device=self.device)
        walk = {"heun": sample.heun, "euler": sample.euler, "dopri": sample.adaptive}[sampler]
        return sample.last(walk(velocity, torch.randn(len(b["log_library"]), self.coordinates.n_out).to(times), times))

    @torch.no_grad()
    def bound(self, b: Minibatch) -> Tensor:
        """log p of the coordinates, (B,), in nats a coordinate: the flow's own, but for the noise of one random
        direction in which each cell's divergence is taken, and the steps."""
        z, told = self.coordinates(b["x"]), self.told(b)
        with sdpa_kernel(SDPBackend.MATH):  # the one attention that can be differentiated forwards
            log_p = sample.likelihood(
                lambda x, t: self.denoiser.predict(x, t, told),
                z,
                torch.linspace(0, 1, BETWEEN + 1).to(z),
                prior=lambda x: Normal(0, 1).log_prob(x).sum(1),
                v=torch.randn_like(z).sign(),
            )
        return log_p / z.shape[1]
