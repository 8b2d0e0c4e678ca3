"""DDPM beside diffusers, where it is there: a training step and a sampler of 50 steps of the same network, and whether
both samplers take the same steps.

The network is `nets.MLP` on 50 coordinates, the chain that of a thousand linear betas, the prediction eps. A training
step draws times and noise, mixes, takes the squared error, goes back and lets a fused AdamW step; both read the same
minibatches from memory and report the loss as a number. diffusers has its schedulers' `add_noise` and `step`, without
clipping.
"""

import statistics
import sys
from collections import deque
from functools import partial

import torch
from models import now
from torch.nn import functional as F

from lab import denoise, diffusion, nets, path, sample, train

D, HIDDEN, SIZE, CELLS, TRAINED = 50, 128, 128, 1000, 100
CHAIN = path.ddpm(diffusion.linear_betas())
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def minibatches(seed: int = 0) -> list[dict]:
    """Twenty of them, from a Gaussian with long and short axes."""
    random = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(SIZE, D, generator=random) * torch.linspace(2, 0.2, D)} for _ in range(20)]


def network(seed: int = 0) -> nets.MLP:
    """The same weights for both."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nets.MLP(D, D, n_hidden=HIDDEN)


def lab_steps():
    """Losses, a step each."""
    model = denoise.Denoiser(network(), CHAIN)
    for row in train.steps(model, partial(denoise.loss, model), minibatches(), n=sys.maxsize):
        yield row["loss"]


def diffusers_steps():
    """The same by `DDPMScheduler.add_noise`, as in the examples of diffusers."""
    from diffusers import DDPMScheduler

    net, scheduler, batches = network(), DDPMScheduler(1000, **BETAS), minibatches()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    while True:
        for b in batches:
            noise, i = torch.randn_like(b["x"]), torch.randint(1000, (SIZE,))
            x = scheduler.add_noise(b["x"], noise, i)
            optimizer.zero_grad()
            loss = D * F.mse_loss(net(x, (i + 1) / 1000), noise)
            loss.backward()
            optimizer.step()
            yield loss.item()


def lab_ddim(net: nets.MLP, x: torch.Tensor, eta: float = 0.0) -> torch.Tensor:
    """Fifty steps, stacked (50, B, D)."""
    times = torch.linspace(1, 0, 51, dtype=x.dtype)
    return torch.stack(list(sample.ddim(denoise.Denoiser(net, CHAIN), x, times, CHAIN, eta=eta)))


@torch.no_grad()
def diffusers_ddim(net: nets.MLP, x: torch.Tensor, eta: float = 0.0) -> torch.Tensor:
    """The same by `DDIMScheduler.step`."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000, **BETAS, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler.set_timesteps(50)
    xs = []
    for i in scheduler.timesteps:
        x = scheduler.step(net(x, (i + 1).to(x.dtype) / 1000), i, x, eta=eta).prev_sample
        xs.append(x)
    return torch.stack(xs)


def furthest(eta: float) -> float:
    """The largest difference between the two in fifty steps from the same noise, in double precision."""
    net, ends = network().double(), []
    for walk in (lab_ddim, diffusers_ddim):
        torch.manual_seed(1)
        x = torch.randn(20, D).double()
        ends.append(walk(net, x, eta))
    return float((ends[0] - ends[1]).abs().max())


def seconds(repeats: int) -> dict[str, dict[str, list[float]]]:
    """What -> whose -> seconds on the wall and of the CPU, medians of interleaved repeats after one that warms up."""
    running = {"lab": lab_steps(), "diffusers": diffusers_steps()}
    net, x = network().requires_grad_(False), torch.randn(CELLS, D)
    work = {
        "training step": {
            name: (lambda it: deque((next(it) for _ in range(TRAINED)), 0), it, TRAINED) for name, it in running.items()
        },
        f"DDIM, 50 steps of {CELLS:,}": {
            "lab": (lambda x: lab_ddim(net, x), x, 1),
            "diffusers": (lambda x: diffusers_ddim(net, x), x, 1),
        },
    }
    took = {what: {name: [] for name in both} for what, both in work.items()}
    for repeat in range(repeats + 1):
        for what, both in work.items():
            for name, (call, given, n) in both.items():
                start = now()
                call(given)
                took[what][name] += [(now() - start) / n] * (repeat > 0)
    middle = lambda times: [statistics.median(clock) for clock in zip(*times)]
    return {what: {name: middle(times) for name, times in both.items()} for what, both in took.items()}


def table(repeats: int) -> None:
    """Print them."""
    try:
        import diffusers
    except ImportError:
        print("\ndiffusers is not installed: no row beside it")
        return
    print(f"\nDDPM, {D} coordinates, three layers of {HIDDEN}, minibatches of {SIZE}; diffusers {diffusers.__version__}")
    print(f"{'milliseconds':<34}{'lab':>10}{'diffusers':>12} {'':<4}{'ratio':>9}")
    for what, both in seconds(repeats).items():
        for clock, lab, peer in zip(("wall clock", "CPU time"), both["lab"], both["diffusers"]):
            print(f"{f'{what}, {clock}':<34}{1e3 * lab:>10.3f}{1e3 * peer:>12.3f}     {peer / lab:>8.2f}x", flush=True)
    for eta in (0.0, 0.5, 1.0):
        print(f"DDIM, eta = {eta}: no step of 50 differs from diffusers' by more than {furthest(eta):.0e}")
