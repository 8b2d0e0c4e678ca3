"""Pairs by optimal transport, and a training step of flow matching on them, beside torchcfm, where it is there.

Both solve each minibatch exactly, for the squared Euclidean distance: lab's `flow.couple` as an assignment, which pairs
every point once; torchcfm's `ExactOptimalTransportConditionalFlowMatcher` by POT's network simplex, and then draws as
many pairs from the plan, with replacement. A training step makes noise, couples, mixes, takes the squared error of the
same `nets.MLP`, goes back and lets a fused AdamW step: lab's in `train.steps`, torchcfm's in the bare loop of its
examples. Data are three clouds in the plane, or a Gaussian with long and short axes in fifty dimensions.
"""

import statistics
import sys
from functools import partial
from itertools import cycle

import torch
from models import now

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


def seconds(repeats: int) -> dict[str, list[list[float]]]:
    """What -> processor seconds of each of the interleaved repeats, lab's and torchcfm's, after one that warms up."""
    took = {}
    for what, both in works().items():
        took[what] = [[], []]
        for repeat in range(repeats + 1):
            for times, call in zip(took[what], both):
                start = now()
                call()
                times += [(now() - start)[1]] * (repeat > 0)
    return took


def table(repeats: int) -> None:
    """Print medians, and the ratios of repeats side by side with their quartiles."""
    try:
        import torchcfm
    except ImportError:
        print("\ntorchcfm is not installed: no row beside it")
        return
    print(f"\nflow matching with optimal-transport pairs; torchcfm {torchcfm.__version__}")
    print(f"{'milliseconds, CPU time':<40}{'lab':>10}{'torchcfm':>12}{'ratio':>10}{'quartiles':>16}")
    for what, (lab, theirs) in seconds(max(4 * repeats, 4)).items():
        low, middle, high = statistics.quantiles([b / a for a, b in zip(lab, theirs)], n=4)
        medians = [1e3 * statistics.median(times) for times in (lab, theirs)]
        print(f"{what:<40}{medians[0]:>10.2f}{medians[1]:>12.2f}{middle:>9.2f}x{low:>9.2f} to {high:.2f}", flush=True)
    apart = max(abs(ours / theirs - 1) for ours, theirs in (costs(n, d) for n in SIZES for d in DIMENSIONS))
    print(f"no mean squared distance of lab's pairs differs from torchcfm's plan by more than {apart:.0e} of it")
