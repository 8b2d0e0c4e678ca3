"""Public checks of homework 2, disentanglement and tighter bounds: one small case each. q6 prints what is marked."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab import data, vae

from .public import EMPTY, compare, earned, number, parts, public

FULL, HALF, SEEN = -666.0, -690.0, -645.0  # ten seeds of the reference: about -660; one profile for all: -718


@public(3)
def q1(gap):
    """Two factors, each its own code."""
    factors = torch.stack([torch.arange(12) % 3, torch.arange(12) // 3], 1)
    return number(gap(factors, factors), 1.0)


@public(3)
def q2(twin):
    """Shape, and that something has changed."""
    found, known = twin(torch.eye(3, 2)), torch.eye(3, 2)
    if found is None:
        return EMPTY
    return "these are the loadings that went in" if torch.equal(found, known) else compare(found @ found.T, 1.0, (3, 3))


@public(3)
def q3(bound):
    """Four equal weights."""
    return compare(bound(torch.full((4, 1), -2.0)), -2.0, (1,))


@public(2)
def q4(effective):
    """Four equal weights count as four."""
    return compare(effective(torch.zeros(4, 1)), 4.0, (1,))


@public(3)
def q5(doubly):
    """One sample at a slope of one, without noise."""
    found = doubly(lambda z: z, torch.tensor(0.0), torch.tensor(0.0), torch.zeros(1))
    return EMPTY if found is None else compare(torch.stack([torch.as_tensor(v) for v in found]), 1.0, (2,))


@public(6)
def q6(file):
    """The bound of held-out cells, with its bands."""
    if not Path(file).exists():
        return EMPTY
    bound = held_out_bound(file)
    print(f"q6: bound {bound:.2f} nats; 6 points above {FULL:g}, 3 above {HALF:g}, none from {SEEN:g}")
    return earned(FULL < bound < SEEN, HALF < bound < SEEN)


def held_out_bound(file: str) -> float:
    """The mean bound of 64 samples, in nats, of the cells that homework 2 holds out, under weights in `file`."""
    model = vae.count_vae(765, 10)
    model.load_state_dict(load_file(file))
    held_out = data.minibatch(parts()[2])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        found = vae.iwae_bound(model, held_out["x"], held_out, k=64).mean().item()
    return found if math.isfinite(found) else -math.inf
