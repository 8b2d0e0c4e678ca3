"""Four count VAEs that differ by what they are told and by their loss: vae, cvae, beta-vae, iwae."""

from functools import partial

import click

from lab.command.front import Real, Whole
from lab.command.options import CONDITION, N_HIDDEN, N_LATENT, required

from . import Recipe


def _build(known, options):
    from lab.vae import count_vae

    levels = {name: len(labels) for name, labels in known.levels.items()}
    return count_vae(len(known.genes), options["n_latent"], options["n_hidden"], conditions=levels)


def _elbo(model, options):
    from lab.vae import loss

    return partial(loss, model)


def _weighted(model, options):
    from lab.command.warm_up import WarmedUp

    return WarmedUp(model, options["beta"], options["warm_up"])


def _importance(model, options):
    from lab.vae import iwae_loss

    return partial(iwae_loss, model, k=options["k"], doubly=options["doubly"])


def _results(model, cells):
    """Bounds of the held-out cells, and where every cell stands in the latent space."""
    import anndata as ad
    import torch
    from accelerate.utils import send_to_device

    from lab.vae import elbo, iwae_bound

    on = lambda batches: (send_to_device(b, model.zero.device) for b in batches)
    latent = torch.cat([_embed(model, b)["X_vae"].cpu() for b in on(cells.everyone)]).numpy()
    bounds = [[bound(model, b["x"], b).cpu() for bound in (elbo, iwae_bound)] for b in on(cells.tested)]
    of_elbo, of_iwae = (float(torch.cat(values).mean()) for values in zip(*bounds))
    report = {
        "held-out ELBO": of_elbo,
        "held-out IWAE bound, k = 8": of_iwae,
        "active units": int((latent.var(0) > 0.01).sum()),  # as vae.active_units, over all cells
    }
    table = ad.AnnData(obs=cells.obs, obsm={"X_vae": latent})
    return report, {"latent.h5ad": table.write_h5ad}


def _sample(model, b):
    z = model.prior(b).sample((len(b["log_library"]),))  # (B, Z)
    return model.likelihood(z, b).sample()


def _embed(model, b):
    return {"X_vae": model.posterior(b["x"], b).mean}


FILES = (
    "Beside what every model leaves, latent.h5ad: your cells, in their order, with posterior means in obsm['X_vae'] "
    "and, in the last column of obs, which were held out."
)

vae = Recipe(
    _build,
    _elbo,
    _results,
    options=(N_LATENT, N_HIDDEN),
    sample=_sample,
    embed=_embed,
    help=f"""Train a count VAE (log1p encoder, negative-binomial decoder) on any AnnData with raw counts.

The held-out loss, minus the ELBO, decides when to stop. {FILES}""",
)

cvae = vae._replace(
    options=(required(CONDITION), N_LATENT, N_HIDDEN),
    help=f"""Train a conditional count VAE: both networks are told each cell's tissue, batch, ..., so that z need not \
say it.

run.json keeps each condition's labels in the order of their codes, which are the rows of the learned tables. \
{FILES}""",
)

beta_vae = vae._replace(
    loss=_weighted,
    options=(
        click.Option(["--beta"], type=Real(0), default=4.0, metavar="FLOAT", help="Weight of the KL."),
        click.Option(
            ["--warm-up"],
            type=Whole(0),
            default=0,
            metavar="INT",
            help="Steps over which the weight rises linearly from 0 to --beta.",
        ),
        N_LATENT,
        N_HIDDEN,
    ),
    help=f"""Train a count VAE whose KL is weighted by beta: above 1 fewer coordinates in use, below 1 a closer fit.

The held-out loss, which decides when to stop, has the full beta from the first step, so keep the warm-up shorter than \
--patience epochs. {FILES}""",
)

iwae = vae._replace(
    loss=_importance,
    options=(
        click.Option(
            ["--k"],
            type=Whole(1),
            default=8,
            metavar="INT",
            help="Samples of z for each cell; time and memory grow with it.",
        ),
        click.Option(
            ["--doubly"],
            is_flag=True,
            help="Doubly reparameterised gradients for the encoder, less noisy at large --k.",
        ),
        N_LATENT,
        N_HIDDEN,
    ),
    help=f"""Train a count VAE on the importance-weighted bound of k samples, tighter than the ELBO.

The held-out loss, which decides when to stop, is minus that bound. {FILES}""",
)
