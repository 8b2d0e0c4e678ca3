"""`make bench`: the count VAE of `lab` against scvi-tools' SCVI on the same simulated counts, and where they differ;
then what the book's other objectives cost, by `models`, how fast chains walk, by `chains`, what it takes to judge
samples, by `samples`, DDPM against diffusers, by `denoisers`, flow matching against torchcfm, by `flows`, cells from
disk in shuffled order, by `disk`, what it takes to judge predicted perturbations, by `perturbations`, a world model
beside the recurrent network in it, by `worlds`, and the selective scan against mambapy, by `scans`.

Both get the same layers (one hidden layer of 128, 10 latent variables, NB likelihood with one dispersion per gene), the
same cells, minibatches of 128, epochs, learning rate 1e-3, KL weight 1 from the first step, one process and the same
number of threads. SCVI keeps its batch norm, dropout and optimizer, and is spared all that is not training: no
validation, logger, checkpoint or progress bar; its data lie dense in memory, as lab's do.
Timed is the fit alone, of a model already built, in interleaved repeats; the ratio is that of
the medians. CPU time is printed beside the wall clock because other work on the machine disturbs it less.

The held-out likelihood is the importance-weighted bound on log p(x) with K samples (Burda et al. 2016), per cell
in nats: for both models log mean_k p(x, z_k) / q(z_k | x), each by its own function, `iwae_bound` and
`marginal_ll`. Higher is better. The simulation's own means and thetas show where the ceiling is.
"""

import argparse
import logging
import math
import os
import statistics
import time
import warnings
from collections import deque
from functools import partial

import anndata as ad
import numpy as np
import torch
from chains import table as table_of_chains
from denoisers import table as table_of_denoisers
from disk import table as table_of_disk
from flows import table as table_of_flows
from models import SIZE, now, table
from perturbations import table as table_of_perturbations
from samples import table as table_of_samples
from scans import table as table_of_scans
from worlds import table as table_of_worlds

from lab import train, vae
from lab.data import loader
from lab.dist import negative_binomial

CELLS, HELD_OUT, GENES, TYPES = 2700, 300, 2000, 10
LATENT, HIDDEN = 10, 128


def simulate(seed: int = 0) -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """Training and held-out cells, and the latter's log p(x | true mean and theta): NB around means of low rank, ten
    cell types in five continuous programmes. 85 % of the counts are 0, 9 % are 1, and half of the cells have fewer
    than 780, as among the 2,000 most expressed genes of the PBMCs of Kang et al. 2018 (87 %, 9 % and 787)."""
    random = np.random.default_rng(seed)
    n = CELLS + HELD_OUT
    programmes = random.normal(0, 1, (TYPES, 5))[random.integers(TYPES, size=n)] + 0.3 * random.normal(size=(n, 5))
    logits = random.normal(0, 1.7, GENES) + programmes @ random.normal(0, 0.5, (5, GENES))
    share = np.exp(logits - logits.max(1, keepdims=True))
    mean = share / share.sum(1, keepdims=True) * random.lognormal(np.log(800), 0.4, (n, 1))
    theta = random.lognormal(1, 0.5, GENES)
    counts = random.poisson(random.gamma(theta, mean / theta)).astype(np.float32)
    truth = (
        negative_binomial(torch.tensor(mean), torch.tensor(theta))
        .log_prob(torch.tensor(counts).double())
        .sum(1)
        .numpy()
    )
    cells = ad.AnnData(np.zeros_like(counts), layers={"counts": counts})
    return cells[:CELLS].copy(), cells[CELLS:].copy(), truth[CELLS:]


def fit_lab(cells: ad.AnnData, epochs: int, seed: int):
    torch.manual_seed(seed)
    model, batches = vae.count_vae(GENES, LATENT, HIDDEN), loader(cells, size=SIZE, seed=seed)
    start = now()
    for _ in train.steps(model, partial(vae.loss, model), batches, n=epochs * len(batches), lr=1e-3):
        pass
    return model, now() - start


@torch.no_grad()
def held_out_lab(model, cells: ad.AnnData, k: int) -> float:
    bounds = [vae.iwae_bound(model, b["x"], b, k=k) for b in loader(cells, size=50, shuffle=False)]
    return torch.cat(bounds).mean().item()


def fit_scvi(cells: ad.AnnData, epochs: int, seed: int):
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(
        cells, n_hidden=HIDDEN, n_latent=LATENT, n_layers=1, gene_likelihood="nb", dispersion="gene"
    )
    start = now()
    model.train(
        max_epochs=epochs,
        batch_size=SIZE,
        train_size=1.0,
        accelerator="cpu",
        devices=1,
        early_stopping=False,
        plan_kwargs={"lr": 1e-3, "n_epochs_kl_warmup": None},
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )
    return model, now() - start


def held_out_scvi(model, cells: ad.AnnData, k: int) -> float:
    model.module.eval()
    cells = model._validate_anndata(cells.copy())
    bounds = [
        model.module.marginal_ll(tensors, n_mc_samples=k, n_mc_samples_per_pass=k)
        for tensors in model._make_data_loader(adata=cells, batch_size=50)
    ]
    return torch.cat(bounds).mean().item()


def median_ms(call, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def log_prob_call(distribution, x):
    """Value and gradient of a minibatch's NB likelihood, as a training step needs them."""
    random = torch.Generator().manual_seed(0)
    mean = (torch.randn(x.shape, generator=random) - 1).exp().requires_grad_()
    theta = torch.ones(x.shape[1], requires_grad=True)

    def call():
        mean.grad = theta.grad = None
        distribution(mean, theta).log_prob(x).sum().backward()

    return call


def row(name: str, lab: float, scvi: float, unit: str) -> None:
    print(f"{name:<34}{lab:>10.3f}{scvi:>12.3f} {unit:<4}{scvi / lab:>8.2f}x", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description="lab against scvi-tools")
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--k", type=int, default=100, help="importance samples of the held-out likelihood")
    given = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    warnings.filterwarnings("ignore")
    import scvi
    from scvi.distributions import NegativeBinomial

    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)  # importing them sets it to INFO
    scvi.settings.verbosity = logging.ERROR

    cells, held_out, truth = simulate()
    zeros = (cells.layers["counts"] == 0).mean()
    print(f"{CELLS} x {GENES} simulated counts, {zeros:.0%} zeros; {given.epochs} epochs of minibatches of {SIZE}")
    print(f"torch {torch.__version__}, scvi-tools {scvi.__version__}, {torch.get_num_threads()} thread(s)\n")

    fits = {"lab": [], "scvi": []}
    for seed in range(given.repeats):
        for name, fit in (("lab", fit_lab), ("scvi", fit_scvi)):
            fits[name].append(fit(cells, given.epochs, seed))
            print(f"repeat {seed + 1}: {name:<5}{fits[name][-1][1][0]:>7.2f} s", flush=True)

    print(f"\n{'':<34}{'lab':>10}{'scvi-tools':>12} {'':<4}{'ratio':>9}")
    for i, clock in enumerate(("wall clock", "CPU time")):
        row(f"fit, median, {clock}", *(statistics.median(took[i] for _, took in fits[name]) for name in fits), "s")
    x = torch.from_numpy(cells.layers["counts"][:SIZE])
    ours = lambda mean, theta: negative_binomial(mean, theta, validate_args=False)
    theirs = lambda mean, theta: NegativeBinomial(mu=mean, theta=theta, validate_args=False)
    row("NB log-likelihood with gradient", *(median_ms(log_prob_call(nb, x), 30) for nb in (ours, theirs)), "ms")
    ours = loader(cells, size=SIZE)
    theirs = fits["scvi"][0][0]._make_data_loader(adata=cells, batch_size=SIZE, shuffle=True)
    row("loader, one epoch", *(median_ms(partial(deque, batches, 0), 10) for batches in (ours, theirs)), "ms")

    print(f"\nheld-out log p(x) per cell in nats, {HELD_OUT} cells, importance-weighted bound with K = {given.k}")
    for name, bound in (("lab", held_out_lab), ("scvi", held_out_scvi)):
        values = [bound(model, held_out, given.k) for model, _ in fits[name]]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        print(f"{name:<12}{statistics.mean(values):>10.2f} +- {spread:.2f} between repeats")
    print(f"{'truth':<12}{truth.mean():>10.2f} (log p(x | the cell's own mean and theta), which no model can know)")
    table(cells, given.repeats)
    table_of_chains(given.repeats)
    table_of_samples(given.repeats)
    table_of_denoisers(given.repeats)
    table_of_flows(given.repeats)
    table_of_disk(given.repeats)
    table_of_perturbations()
    table_of_worlds(given.repeats)
    table_of_scans(given.repeats)


if __name__ == "__main__":
    main()
