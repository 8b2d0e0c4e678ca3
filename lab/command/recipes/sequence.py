"""A sequence of genes that a perturbation begins: bimamba."""

from functools import partial

import click

from lab.command.front import Whole
from lab.command.judging import PERTURBATION, SEPARATOR
from lab.command.options import option

from . import Recipe, later
from .perturbation import CONTROL, WHICH

bimamba = Recipe(
    later("sequenced.bimamba"),
    lambda model, options: partial(later("sequenced.bimamba_loss"), model),
    later("sequenced.results"),
    options=(
        CONTROL,
        PERTURBATION,
        SEPARATOR,
        click.Option(
            ["--head"],
            type=click.Choice(["linear", "probabilistic"]),
            metavar="linear|probabilistic",
            default="linear",
            help="What is said of a gene. linear: its log expression, by squared error; probabilistic: a negative "
            "binomial's mean and dispersion, by the likelihood of raw counts, from which cells are then drawn.",
        ),
        click.Option(
            ["--hold-out"],
            type=click.Choice(["cells", "perturbations"]),
            metavar="cells|perturbations",
            default="cells",
            help="What --validation is a share of. perturbations: all cells of some, or none, so that what is reported "
            "is of perturbations that training had not seen, by their marks or descriptors; controls always train.",
        ),
        option(
            "--annotation",
            "FILE.csv",
            show_default="no gene has a locus",
            help="A row a gene: symbol, chromosome (or chr) and start. Genes follow one another as on the genome; how "
            "many of yours are not in it is said, and these share one learned vector.",
        ),
        option(
            "--descriptors",
            "genes|none|FILE.csv",
            default="none",
            help="What a perturbation is known by, beside its mark. none: a vector learned for each, and one for all "
            "genes that the file does not perturb; genes: the target's locus and pathway features; FILE.csv: a line a "
            "perturbation, its name first, and numbers, such as a compound's fingerprint; it is read again by predict.",
        ),
        option(
            "--n-pathways",
            "INT",
            type=Whole(0),
            default=16,
            help="Features of each gene that an autoencoder finds in the training controls alone; 0 is none.",
        ),
        option("--layers", "INT", type=Whole(1), default=2, help="Of BiMamba, one upon the other."),
        option("--n-state", "INT", type=Whole(1), default=16, help="States a channel of BiMamba."),
        option("--width", "INT", type=Whole(8), default=64, help="Of a token, a multiple of 4."),
    ),
    help=f"""Train BiMamba on the transcriptome as one sequence: a perturbation, then every gene in the order of the \
genome.

A gene is told who it is, where it lies and what it varies with among controls; a perturbed gene is marked. Cells that \
share a perturbation share a pass, so that a step takes as long as there are perturbations in its minibatch, times \
genes. {
        WHICH.format(
            "What a combination is made of must occur in the file, be a gene that is modelled, or have a descriptor.",
            ", R2 of held-out cells by gene about the mean of training perturbations, the flattened R2 beside it, and "
            "how many genes and perturbations nothing was known of",
        )
    } Beside what every model leaves, profiles.h5ad: the predicted mean log expression of each perturbation.""",
    predict=later("perturbed.predicted"),
    gather=later("sequenced.gather"),
    watch=later("sequenced.watch"),
)
