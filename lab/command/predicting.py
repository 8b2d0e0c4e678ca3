"""The words of `predict`: which conditions, of which cells."""

import click

from .front import Level
from .options import FILE, LAYER, SEED, option

HELP = """Predict cells under conditions that they did not have, by a finished run that was trained for it.

The cells are what the prediction starts from; their genes are matched by name as `embed` does. What a model predicts, \
and by which names it is asked, `train MODEL --help` says. The file holds it, and in uns['predict'] what it was \
predicted from."""


OPTIONS = (
    option(
        "--condition",
        "NAME=VALUE",
        multiple=True,
        required=True,
        type=Level(),
        help="What is to be predicted, by a name that the model knows; a name may be repeated, and each of its values "
        "is predicted: --condition perturbation=A --condition perturbation=A+B.",
    ),
    click.Option(
        ["--layout"],
        type=click.Choice(["cells", "vcc"]),
        metavar="cells|vcc",
        default="cells",
        help="Predicted cells alone or, vcc, as `cell-eval prep` takes files for the Virtual Cell Challenge: the cells "
        "given, as controls, and the predicted ones, counts or log expression in X, and obs['target_gene'].",
    ),
    FILE,
    LAYER,
    SEED,
)
