"""Diffusion on cells: ddpm."""

import click

from lab.command.front import Whole
from lab.command.options import CONDITION, N_HIDDEN

from . import Recipe

COMPONENTS = 20  # where the preset has components and no number is given


def _build(known, options):
    from lab import path
    from lab.command.cell_diffusion import CellDiffusion
    from lab.denoise import Denoiser
    from lab.errors import Refused
    from lab.nets import MLP, ConditionEmbedding, Coordinates, GeneAttention

    genes, n, large = len(known.genes), options["coordinates"], options["preset"] == "large"
    if n is None:
        n = 0 if large else min(COMPONENTS, genes)
    if n > genes:
        raise Refused(f"--coordinates {n}, but there are {genes} genes; ask for fewer, or 0 for the genes themselves")
    coordinates, width = Coordinates(genes, n), options["n_hidden"]
    levels = {name: len(labels) for name, labels in known.levels.items()}
    embed = ConditionEmbedding(levels, numbers={"log_library": 1}, null=True)
    if large and width % 8:
        raise Refused(f"--n-hidden {width} cannot be shared by eight heads of attention; give a multiple of 8")
    if large:
        net = GeneAttention(coordinates.n_out, width=width, n_blocks=6, n_heads=8, embed=embed)
    else:
        net = MLP(coordinates.n_out, coordinates.n_out, n_hidden=width, embed=embed)
    model = CellDiffusion(coordinates, Denoiser(net, getattr(path, options["schedule"])(), options["predicts"]), levels)
    try:
        return model if known.batches is None else model.fit(known.batches)
    except Refused as why:
        raise Refused(f"--coordinates {n}: {why}") from None


def _loss(model, options):
    return model.loss


def _results(model, cells):
    """How well held-out cells are described, whether drawn cells are remembered ones, and where all cells lie."""
    import anndata as ad
    import torch
    from accelerate.utils import send_to_device

    from lab.command.cell_diffusion import remembered
    from lab.command.folder import say

    on = lambda batches: (send_to_device(b, model.depth.device) for b in batches)
    tested = [(len(b["x"]), model.loss(b)["loss"].item()) for b in on(cells.tested)]
    n = sum(size for size, _ in tested)
    report = {
        "held-out loss": sum(size * loss for size, loss in tested) / n,
        "held-out bound, nats a coordinate": torch.cat([model.bound(b).cpu() for b in on(cells.tested)]).mean().item(),
        "nearer to training": (near := remembered(model, cells)),
    }
    if near > 0.5 + 2.5 / min(n, 500) ** 0.5:  # five standard deviations of a fair coin
        say(
            f"{near:.0%} of drawn cells lie nearer to a training cell than to a held-out one, and half would be fair: "
            "cells are remembered; give more of them, fewer --epochs or a smaller --n-hidden"
        )
    table = ad.AnnData(obs=cells.obs)
    if model.coordinates.n:
        z = [model.coordinates(b["x"]).cpu() for b in on(cells.everyone)]
        table.obsm["X_coordinates"] = torch.cat(z).numpy()
    return report, {"coordinates.h5ad": table.write_h5ad}


def _sample(model, b, scale=1.0):
    return model.draw(b, scale=scale)


def _choice(name, values, *, default, help):
    return click.Option([name], type=click.Choice(values), metavar="|".join(values), default=default, help=help)


ddpm = Recipe(
    _build,
    _loss,
    _results,
    options=(
        CONDITION,
        _choice(
            "--preset",
            ["small", "large"],
            default="small",
            help="Size of the network. small: three layers on components, for a laptop; large: six blocks of attention "
            "among all genes, for a GPU, whose time and memory grow with the square of --genes.",
        ),
        click.Option(
            ["--coordinates"],
            type=Whole(0),
            metavar="INT",
            show_default="20, or all where there are fewer genes; 0 for large",
            help="Principal components of log-expression that are noised; 0 for the genes themselves.",
        ),
        _choice(
            "--schedule",
            ["cosine", "vp", "linear"],
            default="cosine",
            help="The path from a cell to noise: vp is that of DDPM's linear betas, linear the straight one of flows.",
        ),
        _choice(
            "--predicts",
            ["eps", "x0", "velocity"],
            default="velocity",
            help="What the network says of a noisy cell. eps, DDPM's first choice, needs the longest training.",
        ),
        N_HIDDEN,
    ),
    sample=_sample,
    guided=True,
    help="""Train a diffusion model (DDPM) on the coordinates of cells, told their depth and, with --condition, their \
labels.

Counts become log-expression and its principal components; these are noised and denoised, and what is drawn comes back \
as counts. The held-out loss, always with the same noise, decides when to stop. A tenth of the training cells are not \
told their labels, so that `sample --scale` can follow labels more or less closely. run.json has the held-out loss, \
the bound on log p in nats a coordinate, and the share of drawn cells that are nearer to a training cell than to a \
held-out one, one half where nothing is remembered. Beside what every model leaves, coordinates.h5ad: your cells, in \
their order, with components in obsm['X_coordinates'] and, in the last column of obs, which were held out.""",
)
