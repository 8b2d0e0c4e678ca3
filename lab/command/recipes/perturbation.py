"""Six models of what perturbations do: scgen, cpa, gears, causal-vae, perturb-diffusion, perturb-flow."""

from functools import partial

from lab.command.front import Real, Whole
from lab.command.judging import PERTURBATION, SEPARATOR
from lab.command.options import N_HIDDEN, N_LATENT, option

from . import Recipe, later
from .coordinates import COORDINATES

CONTROL = option("--control", "NAME", required=True, help="The label of control cells in that column.")
WHICH = """The cells are controls and perturbed ones in one file, told apart by one obs column. Leave out of it what \
is to judge the model: every cell of the perturbations that it shall predict, and half of the controls. From the other \
half, or any controls, `predict DIR CONTROLS.h5ad --condition perturbation=A+B` then predicts cells, which `evaluate` \
judges, these controls as --control and those left out as --truth-control. {} run.json has the loss of the cells held \
out of training (--validation), which decides when to stop{}."""
PARTS = "What a combination is made of must occur in the file, each part alone or in another combination."
LATENT = """ Beside what every model leaves, latent.h5ad: your cells, in their order, with {} in obsm['X_vae'] and, \
in the last column of obs, which were held out."""


def _recipe(path, options, help, *, says="", parts=PARTS, claims=None, codes=None, **how):
    """Built by a function, of which FUNCTION_loss(model, b) judges held-out cells and, unless `how` has another `loss`,
    is trained."""
    of, claim = later(f"{path}_loss"), later(claims) if claims else lambda *_: {}
    embed = codes and later("perturb_codes.codes")

    def results(model, cells):
        return later("perturbed.results")(model, cells, of, claim, embed)

    return Recipe(
        later(path),
        how.pop("loss", lambda model, options: partial(of, model)),
        results,
        (PERTURBATION, CONTROL, SEPARATOR, *options),
        f"{help}\n\n{WHICH.format(parts, says)}{LATENT.format(codes) if codes else ''}",
        embed=embed,
        predict=later("perturbed.predicted"),
        columns=later("perturbed.columns"),
        **how,
    )


scgen = _recipe(
    "perturb_codes.scgen",
    (
        option(
            "--group",
            "NAME",
            show_default="all cells together",
            help="An obs column, such as cell_type: shifts are taken within each of its levels that has both sides, "
            "and averaged.",
        ),
        N_LATENT,
        N_HIDDEN,
    ),
    """Train a count VAE and take each perturbation for one shift of its code, as scGen does.

Of a combination that no cell has, the shift is the sum of its parts', each of which must have cells of its own.""",
    parts="",
    claims="perturb_codes.scgen_claims",
    codes="posterior means",
    blind=True,
)

cpa = _recipe(
    "perturb_codes.cpa",
    (
        option(
            "--dose",
            "NAME",
            show_default="every dose is 1",
            help="An obs column of numbers, 0 for controls: how much of a perturbation a cell has had. Then `predict` "
            "takes --condition NAME=0.5, too.",
        ),
        option(
            "--adversary",
            "FLOAT",
            type=Real(0),
            default=50.0,
            help="Weight of the network that looks for perturbations in the code; 0 is none.",
        ),
        N_LATENT,
        N_HIDDEN,
    ),
    """Train a compositional autoencoder (CPA): a basal code, in which an adversary finds no perturbation, and a \
vector for each, which is added.

Combinations add up in the code, and a vector is scaled by a curve of the dose.""",
    says=", and how often a new classifier tells labels from basal codes, beside chance",
    claims="perturb_codes.cpa_claims",
    codes="basal codes, posterior means,",
    loss=later("perturb_codes.adversarial"),
    blind=True,
)

gears = _recipe(
    "perturb_fields.gears",
    (
        option(
            "--graph",
            "coexpression|FILE.gmt",
            default="coexpression",
            help="Which genes are neighbours: those that vary together among the training controls, or those that "
            "share gene sets, one a line, as MSigDB has.",
        ),
        option("--neighbours", "INT", type=Whole(1), default=10, help="How many each gene chooses."),
        option("--n-layers", "INT", type=Whole(0), default=1, help="Rounds of messages along the graph; 0 ignores it."),
        N_HIDDEN,
    ),
    """Train on a graph of genes (GEARS): what is known of a perturbed gene's neighbours serves for the gene.

Perturbations are named by the genes that they perturb, and any that is modelled can be predicted: --genes all takes \
every measured one. Predicted is log expression, in X, by obs['n_counts'] where cells have it.""",
    parts="What a combination is made of must be a gene that is modelled, or occur in the file.",
)

causal_vae = _recipe(
    "perturb_codes.causal",
    (
        option(
            "--share",
            "FLOAT",
            type=Real(0, 1, min_open=True, max_open=True),
            default=0.1,
            help="Which share of the coordinates a perturbation is thought to move.",
        ),
        option(
            "--sparsity",
            "FLOAT",
            type=Real(0),
            default=20.0,
            help="Weight of what it costs to think otherwise; 1 is the bound's own.",
        ),
        N_LATENT,
        N_HIDDEN,
    ),
    """Train a causal VAE: a perturbation moves a few coordinates of the code, by masks that are learned.

Combinations add up in the code. Masks close slowly, and until they have, a perturbation moves more than it should: \
hence the higher --lr.""",
    lr=0.01,
    says=", and the share of the masks that stayed open",
    claims="perturb_codes.causal_claims",
    codes="posterior means, told the perturbation,",
)

perturb_diffusion = _recipe(
    "perturb_fields.diffusion",
    (COORDINATES, N_HIDDEN),
    """Train a diffusion model of perturbed cells' coordinates, told what each perturbation is made of.

Predicted cells are made of noise and a control's depth: they are as many as the controls, and none is the partner of \
one.""",
)

perturb_flow = _recipe(
    "perturb_fields.flow",
    (COORDINATES, N_HIDDEN),
    """Train a flow that carries control cells to perturbed ones, by coordinates, told what a perturbation is made of.

Training pairs are dealt by optimal transport within each perturbation; a predicted cell is what became of one \
control.""",
)
