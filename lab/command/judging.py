"""The words of `evaluate`: predictions of what perturbations do, the truth, and who may know what."""

from pathlib import Path

import click

from .options import LAYER, SEED, option

HELP = """Judge predicted responses to perturbations beside measured ones, and beside every baseline.

PREDICTED.h5ad holds cells, or one mean of log-normalised values, for each perturbation of TRUTH.h5ad. Controls come \
in two files without a common cell: those that the model learned and started from, and those that nothing but the \
truth's shift is measured from; one cell in both, and noise correlates with noise. Cells are compared on the genes of \
PREDICTED.h5ad, as counts or, where a file holds none, as X, log1p of counts per 10,000."""
PREDICTED = click.Argument(["predicted"], metavar="PREDICTED.h5ad")
TRUTH = click.Argument(["truth"], metavar="TRUTH.h5ad")
PERTURBATION = option(
    "--perturbation --by",
    "NAME",
    default="perturbation",
    help="The obs column that says which perturbation a cell has had; combinations are named A+B.",
)
SEPARATOR = option("--separator", "TEXT", default="+", help="What stands between the parts of a combination's name.")


OPTIONS = (
    option("--control", "A.h5ad", required=True, help="Control cells that the model learned and started from."),
    option("--truth-control", "B.h5ad", required=True, help="Other control cells, which no model has seen."),
    option(
        "--train",
        "TRAIN.h5ad",
        show_default="each baseline learns from half of the others' cells in TRUTH.h5ad",
        help="The perturbed cells that the model learned from; baselines then learn from the same. It may hold A too.",
    ),
    PERTURBATION,
    SEPARATOR,
    option(
        "--replicate",
        "NAME",
        show_default="none: cells are tested, which are no replicates",
        help="An obs column of all but predicted cells, such as donor: changed genes are tested on its pseudobulks.",
    ),
    option("--gene-sets", "FILE.gmt", show_default="no rows on pathways", help="Gene sets, one a line, as MSigDB has."),
    option(
        "--features",
        "FILE.csv",
        show_default="the target genes' place among control cells",
        help="A line a perturbation, its name first, and numbers: what nearest and ridge know of it.",
    ),
    option(
        "--out",
        "DIR",
        required=True,
        type=click.Path(path_type=Path),
        help="A folder for the results, new or empty: report.csv, a line a metric and row; perturbations.csv, a line "
        "for each perturbation in them; and report.png.",
    ),
    LAYER,
    SEED,
)
