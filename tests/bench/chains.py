"""Langevin chains: steps of many chains per second, plain and Metropolis-adjusted, beside blackjax where it is there.

All walk on the mixture of `toys.gaussian_mixture`, 1,000 chains side by side, in single precision. lab's plain chain
has the score in closed form, its MALA differentiates log_prob by autograd; blackjax's MALA, whose step size means the
same, has the same log-density in jax, mapped over the chains, all steps in one compiled scan; compiling is not timed.
"""

import statistics
from collections import deque

import torch
from models import now

from lab import sample
from lab.data import toys

CHAINS, STEPS, SIZE = 1000, 200, 0.02


def lab_chains(seed: int = 0) -> dict:
    """Name -> what takes STEPS steps of CHAINS chains."""
    toy = toys.gaussian_mixture()
    torch.manual_seed(seed)
    x, still = torch.randn(CHAINS, 2), torch.zeros(1)
    return {
        "lab, Langevin": lambda: sample.last(sample.langevin(lambda x, t: toy.score(x), x, still, SIZE, STEPS)),
        "lab, MALA": lambda: deque(sample.mala(toy.log_prob, x, step=SIZE, n_steps=STEPS), 1)[0][0],
    }


def blackjax_chains(seed: int = 0) -> dict:
    """The same by blackjax; empty where it is not installed."""
    try:
        import blackjax
        import jax
        import jax.numpy as jnp
    except ImportError:
        return {}
    toy = toys.gaussian_mixture()
    log_w, means, std = jnp.log(toy.weights.numpy()), jnp.array(toy.means.numpy()), float(toy.std[0])

    def log_prob(x):
        return jax.nn.logsumexp(log_w - jnp.square(x - means).sum(-1) / (2 * std**2))

    mala = blackjax.mala(log_prob, SIZE)

    def chain(key, x):
        step = lambda state, key: (mala.step(key, state)[0], None)
        return jax.lax.scan(step, mala.init(x), jax.random.split(key, STEPS))[0].position

    many = jax.jit(jax.vmap(chain))
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    x = jax.random.normal(jax.random.key(seed + 1), (CHAINS, 2))
    return {"blackjax, MALA": lambda: many(keys, x).block_until_ready()}


def chain_steps_per_second(repeats: int) -> dict[str, tuple[float, float]]:
    """On the wall and of the CPU, medians of interleaved repeats; the first, in which jax compiles, does not count."""
    walks, took = lab_chains() | blackjax_chains(), {}
    for repeat in range(repeats + 1):
        for name, walk in walks.items():
            start = now()
            walk()
            took.setdefault(name, []).append(now() - start)
    return {
        name: tuple(CHAINS * STEPS / statistics.median(clock) for clock in zip(*times[1:]))
        for name, times in took.items()
    }


def table(repeats: int) -> None:
    """Print them."""
    print(f"\n{CHAINS} chains of {STEPS} steps on a mixture in the plane")
    print(f"{'million chain-steps per second':<34}{'wall clock':>10}{'CPU time':>12}")
    for name, (wall, cpu) in chain_steps_per_second(repeats).items():
        print(f"{name:<34}{wall / 1e6:>10.2f}{cpu / 1e6:>12.2f}", flush=True)
