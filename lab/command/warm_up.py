"""A weight of the KL that rises as training goes on: the loss of `train beta-vae`."""

from functools import partial

import torch
from torch import nn

from lab import vae
from lab.nets import Minibatch


class WarmedUp(nn.Module):
    """`vae.loss` whose KL weight rises linearly from 0 to `beta` over the first `steps` training steps; in evaluation
    it is `beta`, so that held-out losses compare. The steps taken are a buffer, and so part of every checkpoint."""

    def __init__(self, model: vae.VAE, beta: float, steps: int):
        super().__init__()
        self.loss, self.beta, self.steps = partial(vae.loss, model), beta, steps  # the model is not a part of it
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def forward(self, b: Minibatch) -> dict[str, torch.Tensor]:
        """The report of `vae.loss`, and the `beta` in it."""
        share = (self.taken / max(self.steps, 1)).clamp(max=1) if self.training and self.steps else 1.0
        if self.training:
            self.taken += 1
        return self.loss(b, beta=self.beta * share) | {"beta": self.beta * share}
