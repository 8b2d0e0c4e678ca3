"""Pairs by optimal transport, and a training step of flow matching on them, beside torchcfm, where it is there.

Both solve each minibatch exactly, for the squared Euclidean distance: lab's `flow.couple` as an assignment, which pairs
every point once; torchcfm's `ExactOptimalTransportConditionalFlowMatcher` by POT's network simplex, and then draws as
many pairs from the plan, with replacement. A training step makes noise, couples, mixes, takes the squared error of the
same `nets.MLP`, goes back and lets a fused AdamW step: lab's in `train.steps`, torchcfm's in the bare loop of its
examples. Data are three clouds in the plane, or a Gaussian with long and short axes in fifty dimensions.
"""

import sys
from functools import partial
from itertools import cycle

import torch
from models import beside

from lab import flow, nets, train

SIZES, DIMENSIONS, HIDDEN = (256, 1024), (2, 50), 128


def minibatches(size: int, d: int, seed: int = 0) -> list[dict]:
    """Ten of them."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(10, size, d, generator=random)
    if d > 2:
        return [{"x": x * torch.linspace(2, 0.2, d)} for x in noise]
    return [{"x": 0.3 * x + 2 * torch.randint(-1, 2, (size, 1), generator=random)} for x in noise]


def network(d: int) -> nets.MLP:
    """The same weights for both."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nets.MLP(d, d, n_hidden=HIDDEN)


def lab_steps(size: int, d: int):
    """Losses, a step each."""
    net = network(d)

    def loss(b):
        return flow.loss(net, b | {"x1": flow.couple(b["x"], torch.randn_like(b["x"]))[1]})

    for row in train.steps(net, loss, minibatches(size, d), n=sys.maxsize):
        yield row["loss"]


def torchcfm_steps(size: int, d: int):
    """The same by torchcfm, whose time runs from noise to data."""
    from torchcfm import ExactOptimalTransportConditionalFlowMatcher

    net, matcher = network(d), ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    for b in cycle(minibatches(size, d)):
        optimizer.zero_grad()
        t, x, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(b["x"]), b["x"])
        error = d * torch.mean((net(x, t) - velocity) ** 2)
        error.backward()
        optimizer.step()
        yield error.item()


def pairs(size: int, d: int):
    """Data and noise to couple, without end."""
    for b in cycle(minibatches(size, d)):
        yield b["x"], torch.randn_like(b["x"])


def costs(size: int, d: int) -> tuple[float, float]:
    """The mean squared distance of lab's pairs, and of torchcfm's plan, of one minibatch."""
    from torchcfm.optimal_transport import OTPlanSampler

    torch.manual_seed(0)
    x, noise = next(pairs(size, d))
    plan = torch.as_tensor(OTPlanSampler("exact").get_map(noise, x))
    ours = torch.sub(*flow.couple(x, noise)).double().square().sum(1).mean()
    return ours.item(), (plan * torch.cdist(noise.double(), x.double()).square()).sum().item()


def works() -> dict[str, list]:
    """What -> what does it once, lab's and torchcfm's."""
    from torchcfm.optimal_transport import OTPlanSampler

    theirs, work = OTPlanSampler("exact").sample_plan, {}
    for size in SIZES:
        for d in DIMENSIONS:
            sizes = [pairs(size, d), pairs(size, d)]
            both = (lambda it=sizes[0]: flow.couple(*next(it))), (lambda it=sizes[1]: theirs(*next(it)))
            work[f"pairs, {size} in {d} dimensions"] = both
            steps = [lab_steps(size, d), torchcfm_steps(size, d)]
            work[f"training step, {size} in {d} dimensions"] = [partial(next, it) for it in steps]
    return work


def table(repeats: int) -> None:
    """Print both."""
    try:
        import torchcfm
    except ImportError:
        print("\ntorchcfm is not installed: no row beside it")
        return
    print(f"\nflow matching with optimal-transport pairs; torchcfm {torchcfm.__version__}")
    beside(works(), "lab", "torchcfm", repeats)
    apart = max(abs(ours / theirs - 1) for ours, theirs in (costs(n, d) for n in SIZES for d in DIMENSIONS))
    print(f"no mean squared distance of lab's pairs differs from torchcfm's plan by more than {apart:.0e} of it")
