"""The words of the command line: every option that commands share, one name and one meaning each.

Nothing heavy is imported here: options are checked before anything else is.
"""

import copy
import os
from pathlib import Path

import click

from .front import Column, Genes, Level, NewFile, Real, Whole


def required(option: click.Option) -> click.Option:
    """The same option for a command that cannot do without it."""
    option = copy.copy(option)
    option.required = True
    return option


def _different(ctx, param, names):
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.BadParameter(f"{min(twice)!r} is named more than once; name each column once", ctx, param)
    if own := {"x", "log_library"}.intersection(names):
        raise click.BadParameter(f"a minibatch has its own {min(own)!r}; rename that obs column", ctx, param)
    return names


def _one_level_each(ctx, param, given):
    _different(ctx, param, [name for name, _ in given])
    return dict(given)


def _shared_by_processes(ctx, param, size):
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if size % processes:
        raise click.BadParameter(
            f"{processes} processes cannot share {size}; give a multiple of {processes}", ctx, param
        )
    return size


def option(names: str, metavar: str, **how) -> click.Option:
    """`names` apart by blanks, and what stands for the value in help."""
    return click.Option(names.split(), metavar=metavar, **how)


# What a command reads and where it writes.
DATA = option(
    "--data",
    "FILE|SET",
    required=True,
    help="An .h5ad file, or the name of a set that `python -m lab data` lists, such as pbmc.",
)
LAYER = option(
    "--layer",
    "NAME|X|raw",
    show_default="layers['counts'], else raw.X or X, whichever holds integers",
    help="Where the raw counts are: a layer's name, X for adata.X, raw for adata.raw.X. The one taken is printed and "
    "recorded; where two hold different integers, or none holds any, you are asked for it.",
)
CONDITION = option(
    "--condition",
    "NAME",
    multiple=True,
    type=Column(),
    callback=_different,
    help="An obs column with labels that the model is told; once for each: --condition tissue --condition batch.",
)
LEVEL = option(
    "--condition",
    "NAME=LEVEL",
    multiple=True,
    type=Level(),
    callback=_one_level_each,
    show_default="as often as among the training cells",
    help="One label of a column that the model is told; once for each: --condition tissue=lung --condition batch=b1.",
)
FOLDER = option(
    "--out",
    "DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder for the results: new, empty, or that of the run to continue, which the same command does. It "
    "receives model.safetensors, genes.txt (the model's inputs, in order), depths.csv (depth and condition codes of "
    "the training cells), metrics.csv (one row per step) and run.json (arguments, versions, the conditions' labels, "
    "how well the held-out cells are described).",
)
TABLE = option(
    "--out",
    "DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder for the results, new or empty: report.csv, the table that is printed, and report.png.",
)
FILE = option("--out", "FILE", required=True, type=NewFile(), help="The .h5ad to write; one that exists is refused.")

# How a model is trained, whatever it is.
GENES = option(
    "--genes",
    "INT|all",
    type=Genes(1),
    show_default="2000, or all where there are fewer",
    help="How many of the most variable genes to model (chosen on training cells), or all.",
)
EPOCHS = option("--epochs", "INT", type=Whole(1), default=100, help="Passes over the training cells, at most.")
STEPS = option(
    "--steps", "INT", type=Whole(1), show_default="by --epochs", help="Steps to take instead of whole epochs."
)
PATIENCE = option(
    "--patience",
    "INT",
    type=Whole(1),
    default=20,
    help="Stop after so many validations (one per epoch) without a better held-out loss.",
)
SIZE = option(
    "--size",
    "INT",
    type=Whole(1),
    default=128,
    callback=_shared_by_processes,
    help="Cells per minibatch, over all processes (torchrun --nproc_per_node 2 -m lab train ... starts two).",
)
LR = option(
    "--lr", "FLOAT", type=Real(0, min_open=True), show_default="0.001, of a causal-vae 0.01", help="Learning rate."
)
VALIDATION = option(
    "--validation",
    "FLOAT",
    type=Real(0, 1, min_open=True, max_open=True),
    default=0.1,
    help="Fraction of the cells that is held out.",
)
SEED = option(
    "--seed",
    "INT",
    type=Whole(0, 2**63 - 1),
    default=0,
    help="Fixes all that is random; in training the split, the initial weights, the order of the cells and the noise.",
)
TRAINING = (DATA, FOLDER, LAYER, GENES, EPOCHS, STEPS, PATIENCE, SIZE, LR, VALIDATION, SEED)

# What the networks of many families have.
N_LATENT = option("--n-latent", "INT", type=Whole(1), default=10, help="Coordinates of the latent space.")
N_HIDDEN = option("--n-hidden", "INT", type=Whole(1), default=128, help="Units of the hidden layers.")

# What is asked of a finished run.
SAMPLES = option("--n --samples", "INT", type=Whole(1), default=1000, help="How many cells to draw.")
SAMPLER = option(
    "--sampler",
    "NAME",
    type=click.Choice(["heun", "euler", "dopri", "hmc", "langevin"]),
    show_default="heun for a flow, langevin for an ebm",
    help="How a flow is followed: heun, euler or dopri, which chooses its steps; how an ebm is walked: hmc, langevin.",
)
EVALUATIONS = option(
    "--evaluations",
    "INT",
    type=Whole(1),
    show_default="32 for a flow, 200 for an ebm",
    help="How often the network of a flow or an ebm is asked for each cell: more is slower, and nearer to the model.",
)
SCALE = option(
    "--scale",
    "FLOAT",
    type=Real(0),
    default=1.0,
    help="How closely a ddpm or flow follows labels: 0 not at all, 1 as in training, above 1 more than real cells do.",
)
RUN = click.Argument(["run"], metavar="DIR", type=click.Path(path_type=Path))
CELLS = click.Argument(["data"], metavar="CELLS.h5ad")

# Two sets of cells, compared.
HELD_OUT = click.Argument(["held_out"], metavar="HELD_OUT.h5ad")
DRAWN = click.Argument(["samples"], metavar="SAMPLES.h5ad")
TRAIN = option(
    "--train",
    "TRAIN.h5ad",
    show_default="no rows on memory",
    help="The training cells; adds how many samples are copies of one, or nearer to one than to held-out cells.",
)
LABEL = option(
    "--label",
    "NAME",
    show_default="none",
    help="An obs column of all files, such as cell_type; a classifier trained on samples is then tried on real cells.",
)

# Homework.
ASSIGNMENT = click.Argument(["name"], metavar="HWNN")
SUBMISSIONS = click.Argument(["folder"], metavar="DIR", type=click.Path(path_type=Path))
GRADES = option(
    "-o --grades", "FILE.csv", required=True, type=click.Path(path_type=Path), help="The table of marks to write."
)
SECONDS = option(
    "--seconds", "FLOAT", type=Real(0, min_open=True), default=120, help="Processor time of one submission."
)
