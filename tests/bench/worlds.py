"""An RSSM beside torch.nn.GRU of the same width: a training step over 64 sequences of 50 steps, and 1,024 paths
imagined for 15 steps.

The GRU reads observation and action and guesses the next observation by a linear map; it has no prior, posterior or
draw, so what is more than 1 is the price of these: 2.3 times the weights, and a loop in Python over the steps where
the GRU's is compiled. Both learn in `train.steps`.
"""

import sys
from functools import partial

import torch
from models import beside
from torch import Tensor, nn

from lab import train, world
from lab.dist import gaussian

WIDTH, OBS, ACTIONS = 200, 8, 2


class Recurrent(nn.Module):
    """-log likelihood of each observation, of unit variance, given those before and the actions."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(OBS + ACTIONS, WIDTH, batch_first=True), nn.Linear(WIDTH, OBS)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(obs[:, :1]), obs[:, :-1]], 1)
        return self.head(self.gru(torch.cat([before, actions], -1))[0])


def rides(n: int = 64, steps: int = 50) -> dict[str, Tensor]:
    """Sequences of a stable linear system of as many states as observations, pushed at random."""
    random = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(OBS, OBS, generator=random)).Q
    actions, z, obs = torch.randn(n, steps, ACTIONS, generator=random), torch.zeros(n, OBS), []
    for action in actions.unbind(1):
        z = 0.9 * z @ turn + nn.functional.pad(action, (0, OBS - ACTIONS))
        obs.append(z + 0.1 * torch.randn(n, OBS, generator=random))
    return {"obs": torch.stack(obs, 1), "actions": actions}


def models() -> tuple[world.RSSM, Recurrent]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return world.RSSM(OBS, ACTIONS, n_deterministic=WIDTH, n_latent=30, n_hidden=WIDTH), Recurrent()


def gru_loss(model: Recurrent, b: dict[str, Tensor]) -> dict[str, Tensor]:
    mean = model(b["obs"], b["actions"])
    return {"loss": -gaussian(mean, torch.ones_like(mean)).log_prob(b["obs"]).mean()}


def learners() -> list:
    """Both in training, a step at each call of `next`, the GRU first."""
    rssm, gru = models()
    pairs = (gru, gru_loss), (rssm, world.loss)
    return [train.steps(model, partial(loss, model), [rides()], n=sys.maxsize) for model, loss in pairs]


def works() -> dict[str, tuple]:
    """What -> the GRU's and the RSSM's, ready to be called again and again."""
    rssm, gru = models()
    actions = torch.randn(1024, 15, ACTIONS)

    @torch.no_grad()
    def imagine():
        return rssm.imagine(rssm.start(1024), actions)

    @torch.no_grad()
    def unroll():
        return gru(torch.zeros(1024, 15, OBS), actions)

    return {"training step, 64 x 50": [partial(next, s) for s in learners()], "imagined, 1,024 x 15": (unroll, imagine)}


def table(repeats: int) -> None:
    """Print both."""
    print(f"\na world model of width {WIDTH} beside torch.nn.GRU of that width")
    beside(works(), "GRU", "RSSM", repeats)
