"""DDPM beside diffusers, where it is there: a training step and a sampler of 50 steps of the same network, and whether
both samplers take the same steps.

The network is `nets.MLP` on 50 coordinates, the chain that of a thousand linear betas, the prediction eps. A training
step draws times and noise, mixes, takes the squared error, goes back and lets a fused AdamW step; all read the same
minibatches from memory and report the loss as a number. diffusers has its schedulers' `add_noise` and `step`, without
clipping of samples, and two loops: a bare one, and that of its own example (train_unconditional.py) with Accelerate,
which clips the gradient and has a learning rate that changes. lab's, which can stop anywhere and runs on many machines,
is more than the one and about as much as the other.
"""

import statistics
import sys
from collections import deque
from functools import partial
from itertools import cycle, islice

import torch
from models import now
from torch.nn import functional as F

from lab import denoise, diffusion, nets, path, sample, train

D, HIDDEN, SIZE, CELLS, TRAINED = 50, 256, 128, 1000, 100
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


def diffusers_loss():
    """The network, and its loss of a minibatch by `DDPMScheduler.add_noise`."""
    from diffusers import DDPMScheduler

    net, scheduler = network(), DDPMScheduler(1000, **BETAS)

    def loss(net, x):
        noise, i = torch.randn_like(x), torch.randint(1000, (len(x),))
        return D * F.mse_loss(net(scheduler.add_noise(x, noise, i), (i + 1) / 1000), noise)

    return net, loss


def diffusers_steps():
    """Losses, a step each, in a bare loop."""
    net, loss = diffusers_loss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    for b in cycle(minibatches()):
        optimizer.zero_grad()
        error = loss(net, b["x"])
        error.backward()
        optimizer.step()
        yield error.item()


def example_steps():
    """The same in the loop of its example."""
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler

    accelerator, (net, loss) = Accelerator(), diffusers_loss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10**6)
    net, optimizer, rates = accelerator.prepare(net, optimizer, rates)
    net.train()
    for b in cycle(minibatches()):
        with accelerator.accumulate(net):
            error = loss(net, b["x"])
            accelerator.backward(error)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
        yield error.detach().item()


def lab_ddim(net: nets.MLP, x: torch.Tensor, eta: float, times: torch.Tensor) -> list[torch.Tensor]:
    """x after every step."""
    return list(sample.ddim(denoise.Denoiser(net, CHAIN), x, times, CHAIN, eta=eta))


@torch.no_grad()
def diffusers_ddim(net: nets.MLP, x: torch.Tensor, eta: float, times: torch.Tensor) -> list[torch.Tensor]:
    """The same by `DDIMScheduler.step`, at the same times, which are fiftieths; its table, which is of float32 and a
    hundred-thousandth off at much noise, is made anew in double precision."""
    from diffusers import DDIMScheduler

    scheduler, xs = DDIMScheduler(1000, **BETAS, timestep_spacing="trailing"), []
    scheduler.set_timesteps(50)
    scheduler.alphas_cumprod = (1 - diffusion.linear_betas()).cumprod(0).to(x.dtype)
    for t in times[:-1]:
        i = (t * 1000).round().long() - 1
        x = scheduler.step(net(x, t), i, x, eta=eta).prev_sample
        xs.append(x)
    return xs


def furthest(eta: float) -> float:
    """The largest difference that one step makes, of fifty that each begin where lab's is, in double precision."""
    net, times = network().double(), torch.linspace(1, 0, 51, dtype=torch.float64)
    torch.manual_seed(1)
    x, apart = torch.randn(20, D).double(), 0.0
    for i in range(50):
        ends = []
        for walk in (lab_ddim, diffusers_ddim):
            torch.manual_seed(i)
            ends.append(walk(net, x, eta, times[i : i + 2])[0])
        x, apart = ends[0], max(apart, float((ends[0] - ends[1]).abs().max()))
    return apart


def works() -> dict[str, dict]:
    """What -> whose -> what does it, and how many of it that is; lab's first."""
    net, x, times = network().requires_grad_(False), torch.randn(CELLS, D), torch.linspace(1, 0, 51)
    trained = {"lab": lab_steps(), "diffusers": diffusers_steps(), "its example": example_steps()}
    walk = lambda walk, eta: (lambda: walk(net, x, eta, times), 1)
    samplers = {"lab": lab_ddim, "diffusers": diffusers_ddim}
    return {"training step": {name: (partial(some, it), TRAINED) for name, it in trained.items()}} | {
        f"DDIM of {CELLS:,}, eta = {eta}": {name: walk(of, eta) for name, of in samplers.items()} for eta in (0.0, 1.0)
    }


def some(it) -> None:
    """A hundred of an endless iterator."""
    deque(islice(it, TRAINED), 0)


def seconds(repeats: int) -> dict[str, dict[str, list[float]]]:
    """What -> whose -> seconds on the wall and of the CPU, medians of interleaved repeats after one that warms up."""
    work = works()
    took = {what: {name: [] for name in both} for what, both in work.items()}
    for repeat in range(repeats + 1):
        for what, both in work.items():
            for name, (call, n) in both.items():
                start = now()
                call()
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
    print(
        f"\nDDPM, {D} coordinates, three layers of {HIDDEN}, minibatches of {SIZE}; diffusers {diffusers.__version__}"
    )
    print(f"{'milliseconds':<40}{'wall clock':>10}{'CPU time':>12}{'of lab, CPU':>14}")
    for what, both in seconds(repeats).items():
        for name, (wall, cpu) in both.items():
            ratio = cpu / both["lab"][1]
            print(f"{f'{what}, {name}':<40}{1e3 * wall:>10.2f}{1e3 * cpu:>12.2f}{ratio:>13.2f}x", flush=True)
    for eta in (0.0, 0.5, 1.0):
        print(f"DDIM, eta = {eta}: none of 50 steps differs from diffusers' by more than {furthest(eta):.0e}")
