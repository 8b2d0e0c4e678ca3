"""What `train ebm` trains: an energy of cells' coordinates, by chains that persist from step to step."""

from collections.abc import Iterable
from copy import deepcopy
from math import log, pi

import torch
from torch import Tensor, nn

from lab import ebm, sample
from lab.errors import Refused
from lab.nets import Coordinates, Minibatch
from lab.train import ema_update

from .in_coordinates import InCoordinates, steps_of

SAMPLERS = {"langevin": 1, "hmc": 10}  # gradients of the energy a step
EVALUATIONS = 200  # of a chain that is not told how many
CHAINS, RESET = 2000, 0.05  # that are kept, and which share of those continued begins anew, at a training cell
SLOWEST = 0.99  # decay of the average of the weights, which begins lower
MALA = 0.1  # step of the chains that estimate Z, from N(0, I)


class CellEnergy(InCoordinates):
    """Counts -> coordinates of mean 0 and variance 1 -> an energy (B,): `net` and that of N(0, I), which it bends.
    Trained is `net`; judged, and drawn from, is the average of its weights. Of labels and depth it knows nothing.

    `chains` are 2,000 points that Langevin steps move as training goes on: the model's own samples."""

    def __init__(self, coordinates: Coordinates, net: nn.Module, *, step: float, n_steps: int):
        super().__init__(coordinates)
        self.step, self.n_steps = step, n_steps
        self.energy = ebm.Confined(net, 1.0)
        self.average = deepcopy(self.energy).requires_grad_(False)
        self.register_buffer("spread", torch.ones(coordinates.n_out))
        self.register_buffer("chains", torch.randn(CHAINS, coordinates.n_out))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def fit(self, batches: Iterable[Minibatch]) -> "CellEnergy":
        """Fit the map to minibatches of training cells, and the units and the chains' beginnings to some of these."""
        super().fit(batches)
        some = [self.coordinates(b["x"])[torch.randint(len(b["x"]), (1 + CHAINS // len(batches),))] for b in batches]
        z = torch.cat(some)  # of all minibatches as many, however many cells there are
        self.spread.copy_(z.std(0).clamp(min=1e-3))
        self.chains.copy_((z / self.spread)[torch.randint(len(z), (CHAINS,))])
        return self

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """In training `ebm.contrastive` against the chains; in evaluation minus `log_prob`, whose Z is of fifty
        temperatures and a hundred chains."""
        x = self.coordinates(b["x"]) / self.spread
        if not self.training:
            gap = ebm.contrastive(self.energy, x, self.chains)["gap"]
            loss = -self.log_prob(x, self.log_z(100, 50)).mean()
            return {"loss": loss + 0 * gap, "gap": gap}  # NaN where the latest weights have left for infinity
        self.taken += 1
        ema_update(self.average, self.energy, min(SLOWEST, self.taken.item() / (self.taken.item() + 10)))
        replay = ebm.Replay(x, reset=RESET)
        replay.x = self.chains
        try:
            fake = replay.draw(self.energy, min(len(x), CHAINS), step=self.step, n_steps=self.n_steps)
        except Refused:
            less = f"give a smaller --step-size than {self.step:g}, or a lower --lr"
            raise Refused(f"chains have left for infinity; {less}") from None
        return ebm.contrastive(self.energy, x, fake)

    @torch.no_grad()
    def log_z(self, n: int, temperatures: int) -> Tensor:
        """log Z of the averaged energy, by annealed importance sampling of `n` chains from N(0, I)."""
        x = torch.randn(n, len(self.spread), device=self.device)
        normal = lambda x: -x.square().sum(1) / 2 - x.shape[1] / 2 * log(2 * pi)
        powers = torch.linspace(0, 1, temperatures + 1)
        log_w, _ = ebm.ais(self.average, x, normal, powers=powers, step=MALA)
        return log_w.logsumexp(0) - log(n)

    def log_prob(self, x: Tensor, log_z: Tensor) -> Tensor:
        """log p (B,) of the coordinates, of which `x` are those in units of their spread."""
        return -self.average(x) - log_z - self.spread.log().sum()

    def evidence(self, batches: Iterable[Minibatch]) -> float:
        """The mean of `log_prob`, a coordinate, with a Z of five hundred temperatures and a thousand chains."""
        log_z = self.log_z(1000, 500)
        log_p = [self.log_prob(self.coordinates(b["x"]) / self.spread, log_z).cpu() for b in batches]
        return torch.cat(log_p).mean().item() / len(self.spread)

    def points(self, b: Minibatch, *, sampler: str = "langevin", evaluations: int | None = None) -> Tensor:
        """By chains that go on from those of training: by Langevin steps, as there, or by HMC, which has the energy's
        own law whatever the step."""
        n = steps_of(sampler, evaluations or EVALUATIONS, SAMPLERS[sampler])
        x = self.chains[torch.randint(CHAINS, (len(b["log_library"]),))]
        if sampler == "langevin":
            score = lambda x, t: ebm.score(self.average, x)
            return self.spread * sample.last(sample.langevin(score, x, torch.zeros(1), self.step, n))
        size, log_p = (2 * self.step) ** 0.5, lambda x: -self.average(x)
        return self.spread * sample.last(sample.hmc(log_p, x, step=size, n_leapfrog=SAMPLERS["hmc"], n_steps=n))[0]
