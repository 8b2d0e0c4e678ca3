"""A start-up file for the kernels that run the reader notebooks: initial weights, as an optimizer receives them, are
moved in the seventh digit, by noise of the seed LAB_JITTER. That is what another processor's rounding comes to after
some steps of training; outputs and assertions that hold under it hold elsewhere. Put there by book/conftest.py."""


def _jitter():
    import os

    import torch

    begin, noise = torch.optim.Optimizer.__init__, torch.Generator().manual_seed(int(os.environ["LAB_JITTER"], 16))

    @torch.no_grad()
    def moved(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        for p in (p for group in self.param_groups for p in group["params"]):
            p.mul_(1 + 1e-6 * torch.randn(p.shape, generator=noise, dtype=p.dtype).to(p.device))

    torch.optim.Optimizer.__init__ = moved


_jitter()
del _jitter  # a notebook begins with nothing of this
