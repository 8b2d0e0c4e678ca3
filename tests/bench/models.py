"""What other objectives cost: cells per second of a training step beside the plain VAE's, and seconds of MIG and DCI.

Every step is forward, backward and AdamW's, through `train.steps` on minibatches of `loader`, of the same networks on
the same counts. FactorVAE's is two: the VAE's, then the discriminator's on fresh posterior samples. Repeats are
interleaved, and the ratio is that of the medians.
"""

import statistics
import sys
import time
from functools import partial

import anndata as ad
import numpy as np
import torch

from lab import train, vae
from lab.data import loader
from lab.disentangle import dci, discriminator_loss, factor_loss, mig
from lab.nets import mlp

SIZE, K = 128, 50


def plain(cells: ad.AnnData):
    """The VAE, as every chapter trains it."""
    model = vae.count_vae(cells.n_vars)
    return endless(model, partial(vae.loss, model), cells)


def iwae(cells: ad.AnnData, doubly: bool = False):
    """The bound of K samples."""
    model = vae.count_vae(cells.n_vars)
    return endless(model, partial(vae.iwae_loss, model, k=K, doubly=doubly), cells)


def factor(cells: ad.AnnData):
    """A VAE that pays for total correlation, and the discriminator that estimates it."""
    model, discriminator = vae.count_vae(cells.n_vars), mlp(10, 256, 256, 1)

    def telling(b):
        with torch.no_grad():
            z = model.posterior(b["x"], b).sample()
        return discriminator_loss(discriminator, z)

    pay = endless(model, lambda b: factor_loss(discriminator, *vae.terms(model, b["x"], b), gamma=5.0), cells)
    return zip(pay, endless(discriminator, telling, cells))


def endless(model, loss, cells: ad.AnnData):
    return train.steps(model, loss, loader(cells, size=SIZE, drop_last=True), n=sys.maxsize)


STEPS = {  # name: (its steps, how many of them one repeat takes)
    "VAE": (plain, 40),
    f"IWAE, K = {K}": (iwae, 3),
    f"IWAE, K = {K}, doubly": (lambda cells: iwae(cells, doubly=True), 3),
    "FactorVAE": (factor, 40),
}


def seconds_of_a_step(cells: ad.AnnData, repeats: int) -> dict[str, tuple[float, float]]:
    """For each of STEPS the seconds, on the wall and of the CPU, that one step takes: medians."""
    torch.manual_seed(0)
    running = {name: begin(cells) for name, (begin, _) in STEPS.items()}
    took = {name: [] for name in STEPS}
    for repeat in range(repeats + 1):  # the first warms up
        for name, (_, n) in STEPS.items():
            start = now()
            for _ in range(n if repeat else 1):
                next(running[name])
            took[name] += [(now() - start) / n] * (repeat > 0)
    return {name: tuple(statistics.median(clock) for clock in zip(*times)) for name, times in took.items()}


def seconds_of_mig_and_dci(n_cells: int = 10_000, n_latent: int = 10, n_factors: int = 10) -> np.ndarray:
    """On the wall and of the CPU, for codes that are noisy copies of factors."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(n_cells, n_factors))
    codes = factors[:, np.arange(n_latent) % n_factors] + 0.5 * random.normal(size=(n_cells, n_latent))
    start = now()
    mig(codes, factors)
    dci(codes, factors)
    return now() - start


def now() -> np.ndarray:
    """Seconds of the wall clock, and of the CPU."""
    return np.array([time.perf_counter(), time.process_time()])


def beside(works: dict, one: str, other: str, repeats: int) -> None:
    """Print, of what -> (call, call), both medians of processor time over interleaved repeats, after one that warms up,
    and how often the first goes into the second, side by side, with quartiles."""
    print(f"{'milliseconds, CPU time':<40}{one:>10}{other:>12}{'ratio':>10}{'quartiles':>16}")
    for what, both in works.items():
        took = [[], []]
        for repeat in range(max(4 * repeats, 4) + 1):
            for times, call in zip(took, both):
                start = now()
                call()
                times += [(now() - start)[1]] * (repeat > 0)
        low, middle, high = statistics.quantiles([b / a for a, b in zip(*took)], n=4)
        medians = [1e3 * statistics.median(times) for times in took]
        print(f"{what:<40}{medians[0]:>10.2f}{medians[1]:>12.2f}{middle:>9.2f}x{low:>9.2f} to {high:.2f}", flush=True)


def table(cells: ad.AnnData, repeats: int) -> None:
    """Print both."""
    print(f"\ntraining step, {SIZE} cells x {cells.n_vars} genes")
    print(f"{'cells per second':<34}{'wall clock':>10}{'CPU time':>12}{'steps of the VAE':>19}")
    took = seconds_of_a_step(cells, repeats)
    for name, (wall, cpu) in took.items():
        print(f"{name:<34}{SIZE / wall:>10.0f}{SIZE / cpu:>12.0f}{cpu / took['VAE'][1]:>18.2f}x", flush=True)
    wall, cpu = seconds_of_mig_and_dci()
    print(f"\nMIG + DCI of 10,000 cells, 10 latents, 10 factors: {wall:.1f} s on the wall, {cpu:.1f} s of the CPU")
