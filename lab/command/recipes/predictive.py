"""Two models that predict what is not seen in a latent space: of other genes or a later row, jepa; of all later
rows, rssm."""

import click

from lab.command.front import Column, Whole
from lab.command.options import N_HIDDEN, N_LATENT, option, required
from lab.errors import Refused

from . import Recipe, later

TRACK = option(
    "--track",
    "NAME",
    type=Column(),
    help="The obs column that says which cell or culture a row is of; tracks are held out whole.",
)
TIME = option("--time", "NAME", type=Column(), help="The obs column of times, numbers.")
ACTION = option(
    "--action",
    "NAME",
    multiple=True,
    callback=lambda ctx, param, names: list(names),  # as run.json has them
    type=Column(),
    help="Numbers in obs, or a matrix in obsm, that say what led to a row, such as a dose; repeated for more. The time "
    "since the row before is always told.",
)
WINDOW = option(
    "--window",
    "INT",
    type=Whole(2),
    show_default="20, or the shortest track",
    help="Rows in a row that a model learns from at a time; --size is the number of windows.",
)


def _jepa(known, options):
    from lab.command import masked_genes, row_pairs

    n, sizes = len(known.genes), (options["n_latent"], options["keeps"])
    if "action" not in known.levels:
        return masked_genes.MaskedGenes(n, *sizes)
    model = row_pairs.RowPairs(n, len(known.levels["action"]), *sizes)
    return model if known.batches is None else model.fit(known.batches)


def _rssm(known, options):
    from lab.command.cell_series import CellSeries

    n, action = len(known.genes), len(known.levels["action"])
    model = CellSeries(n, action, n_latent=options["n_latent"], n_hidden=options["n_hidden"])
    return model if known.batches is None else model.fit(known.batches)


def _loss(model, options):
    return model.loss


def _of_jepa(model, cells):
    from lab.command import masked_genes, row_pairs

    return (row_pairs if isinstance(model, row_pairs.RowPairs) else masked_genes).results(model, cells)


def _gather_pairs(source, options):
    from lab.command import parts, series

    if "gap" in options["action"]:
        raise Refused("a jepa is asked by gap=TIME what comes later; give the action 'gap' another name")
    if options["track"] and options["time"]:
        return series.gather(source, options)
    if given := [name for name in ("track", "time", "action", "window") if options[name]]:
        raise Refused(f"--{given[0]} is of cells in time; give --track and --time with it, or none of these")
    return parts.gather(source, options)


jepa = Recipe(
    _jepa,
    _loss,
    _of_jepa,
    options=(
        click.Option(
            ["--keeps"],
            type=click.Choice(["variance", "gaussian"]),
            metavar="variance|gaussian",
            default="variance",
            help="What holds the embedding open: the spread and covariances of its coordinates (VICReg), or that it be "
            "normal (SIGReg).",
        ),
        TRACK,
        TIME,
        ACTION,
        WINDOW,
        N_LATENT,
    ),
    embed=later("masked_genes.embed"),
    predict=later("row_pairs.predict"),
    gather=_gather_pairs,
    help="""Train a joint embedding (JEPA): half of a cell's genes, or a track's past, tells where the rest stands.

Nothing is reconstructed, and counts become logarithms. Of single cells, halves of the genes are drawn anew at every \
step, and the encoder is one matrix. With --track and --time it is two rows of each window, the encoder has a hidden \
layer, and the predictor is told the time between them and the mean of each --action since. `predict --condition \
gap=TIME` then says where any cells will stand so much later; with --condition dose=1, of an action in obs, if that \
leads to each row meanwhile (0 where nothing is said).

The held-out loss decides when to stop. run.json has the held-out error of prediction and what a constant's would be, \
in time also that of standing still; and the spread and effective rank of the embedding, which a collapse would show: \
a rank far below --n-latent, or a spread near 0. Compare it with as many principal components before you trust it. \
Beside what every model leaves, latent.h5ad: your cells, in their order, with embeddings in obsm['X_jepa'] and, in the \
last column of obs, which were held out.""",
)

rssm = Recipe(
    _rssm,
    _loss,
    later("cell_series.results"),
    options=(required(TRACK), required(TIME), ACTION, WINDOW, N_LATENT, N_HIDDEN),
    embed=later("cell_series.embed"),
    predict=later("cell_series.predict"),
    gather=later("series.gather"),
    help="""Train a world model (RSSM) on cells in time: what a track shows next, given what was seen and done.

Each row is a cell or culture at one time; the same one must have been measured before. Counts become log-expression \
in units of each gene's spread. The held-out loss, minus the sequence ELBO of windows of held-out tracks, decides when \
to stop. run.json has that bound beside genes by themselves, and of the later half of each held-out track, imagined \
from the earlier one, the squared error, beside what the last row seen and the mean of training rows would have, and \
how many values are within a band of 90 %. `predict --condition after=TIME` imagines the rows after a time from what \
led to them: means of log1p of counts per 10,000 in X, the band in layers 'low' and 'high'. Beside what every model \
leaves, horizons.csv, these errors by number of steps, and latent.h5ad: your rows, in their order, with states in \
obsm['X_rssm'] and, in the last column of obs, which were held out.""",
)
