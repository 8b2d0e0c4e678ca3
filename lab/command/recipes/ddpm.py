"""A diffusion model of cells: ddpm."""

import click

from lab.command.front import Whole
from lab.command.options import CONDITION, N_HIDDEN

from . import Recipe

COMPONENTS = 50


def _build(known, options):
    from lab import path
    from lab.command.cell_diffusion import CellDiffusion
    from lab.denoise import Denoiser
    from lab.errors import Refused
    from lab.nets import MLP, ConditionEmbedding, Coordinates

    genes, n = len(known.genes), options["coordinates"]
    n = min(COMPONENTS, genes) if n is None else n
    if n > genes:
        raise Refused(f"--coordinates {n}, but there are {genes} genes; ask for fewer, or 0 for the genes themselves")
    coordinates = Coordinates(genes, n)
    levels = {name: len(labels) for name, labels in known.levels.items()}
    embed = ConditionEmbedding(levels, numbers={"log_library": 1}, null=True)
    net = MLP(coordinates.n_out, coordinates.n_out, n_hidden=options["n_hidden"], embed=embed)
    model = CellDiffusion(coordinates, Denoiser(net, getattr(path, options["schedule"])(), options["predicts"]), levels)
    try:
        return model.fit(known.batches) if known.batches is not None else model
    except Refused as why:
        raise Refused(f"{why}, --coordinates {n} being too many") from None


def _loss(model, options):
    return model.loss


def _results(model, cells):
    """How well held-out cells are described, whether drawn cells are remembered ones, and where all cells lie."""
    import anndata as ad
    import torch
    from accelerate.utils import send_to_device

    from lab.command.cell_diffusion import remembered

    on = lambda batches: (send_to_device(b, model.depth.device) for b in batches)
    tested = [b for b in on(cells.tested)]
    loss = sum(len(b["x"]) * model.loss(b)["loss"].item() for b in tested) / int(cells.held_out.sum())
    report = {
        "held-out loss": loss,
        "held-out bound, nats a coordinate": torch.cat([model.bound(b) for b in tested]).mean().item(),
        "nearer to training": remembered(model, cells),
    }
    z = torch.cat([model.coordinates(b["x"]).cpu() for b in on(cells.everyone)]).numpy()
    table = ad.AnnData(obs=cells.obs, obsm={"X_coordinates": z} if model.coordinates.n else {})
    return report, {"coordinates.h5ad": table.write_h5ad}


def _sample(model, b):
    return model.draw(b)


ddpm = Recipe(
    _build,
    _loss,
    _results,
    options=(
        CONDITION,
        click.Option(
            ["--coordinates"],
            type=Whole(0),
            metavar="INT",
            show_default="50, or all where there are fewer genes",
            help="Principal components of log-expression in which cells are noised; 0 for the genes themselves.",
        ),
        click.Option(
            ["--schedule"],
            type=click.Choice(["cosine", "vp", "linear"]),
            default="cosine",
            help="How noise grows: vp is DDPM's linear betas, linear the straight path of flows.",
        ),
        click.Option(
            ["--predicts"],
            type=click.Choice(["eps", "x0", "velocity"]),
            default="eps",
            help="What the network says of a noisy cell: its noise, the clean cell, or the velocity.",
        ),
        N_HIDDEN,
    ),
    sample=_sample,
    help="""Train a diffusion model.

The held-out loss decides when to stop.""",
)
