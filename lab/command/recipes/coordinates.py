"""Three models of cells' coordinates: diffusion, ddpm; flow matching, flow; an energy, ebm."""

import click

from lab.command.front import Real, Whole
from lab.command.options import CONDITION, N_HIDDEN
from lab.errors import Refused

from . import Recipe


def _network(coordinates, levels, options):  # net(x, t, cond), told depth and conditions
    from lab.nets import MLP, ConditionEmbedding, GeneAttention

    n, width, large = coordinates.n_out, options["n_hidden"], options["preset"] == "large"
    embed = ConditionEmbedding(levels, numbers={"log_library": 1}, null=True)
    if large and width % 8:
        raise Refused(f"--n-hidden {width} cannot be shared by eight heads of attention; give a multiple of 8")
    if large:
        return GeneAttention(n, width=width, n_blocks=6, n_heads=8, embed=embed)
    return MLP(n, n, n_hidden=width, embed=embed)


def _diffusion(known, options):
    from lab import path
    from lab.command.cell_diffusion import CellDiffusion
    from lab.command.in_coordinates import coordinates_of, fitted
    from lab.denoise import Denoiser

    coordinates, levels = coordinates_of(known, options), {name: len(of) for name, of in known.levels.items()}
    net, way = _network(coordinates, levels, options), getattr(path, options["schedule"])()
    return fitted(CellDiffusion(coordinates, Denoiser(net, way, options["predicts"]), levels), known)


def _flow(known, options):
    from lab.command.cell_flow import CellFlow
    from lab.command.in_coordinates import coordinates_of, fitted

    coordinates, levels = coordinates_of(known, options), {name: len(of) for name, of in known.levels.items()}
    return fitted(
        CellFlow(coordinates, _network(coordinates, levels, options), levels, couple=options["couple"]), known
    )


def _energy(known, options):
    from lab.command.cell_energy import CellEnergy
    from lab.command.in_coordinates import coordinates_of, fitted
    from lab.nets import mlp

    coordinates, width = coordinates_of(known, options), options["n_hidden"]
    net = mlp(coordinates.n_out, width, width, 1)
    return fitted(CellEnergy(coordinates, net, step=options["step_size"], n_steps=options["chain_steps"]), known)


def _loss(model, options):
    return model.loss


def _results(model, cells):
    from lab.command.in_coordinates import results

    return results(model, cells)


def _sample(model, b, **how):
    return model.draw(b, **how)


def _choice(name, values, *, default, help):
    return click.Option([name], type=click.Choice(values), metavar="|".join(values), default=default, help=help)


PRESET = _choice(
    "--preset",
    ["small", "large"],
    default="small",
    help="Size of the network. small: three layers on components, for a laptop; large: six blocks of attention "
    "among all genes, for a GPU, whose time and memory grow with the square of --genes.",
)
COORDINATES = click.Option(
    ["--coordinates"],
    type=Whole(0),
    metavar="INT",
    show_default="20, or all where there are fewer genes; 0 for large",
    help="Principal components of log-expression that are modelled; 0 for the genes themselves.",
)
WAY = """Counts become log-expression and its principal components; {}, and what is drawn comes back as counts."""
FILES = """run.json has the held-out loss, {}, and the share of drawn cells that are nearer to a training cell than to \
a held-out one, one half where nothing is remembered. Beside what every model leaves, coordinates.h5ad: your cells, in \
their order, with components in obsm['X_coordinates'] and, in the last column of obs, which were held out."""

ddpm = Recipe(
    _diffusion,
    _loss,
    _results,
    options=(
        CONDITION,
        PRESET,
        COORDINATES,
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
    help=f"""Train a diffusion model (DDPM) on the coordinates of cells, told their depth and, with --condition, their \
labels.

{WAY.format("these are noised and denoised")} The held-out loss, always with the same noise, decides when to stop. A \
tenth of the training cells are not told their labels, so that `sample --scale` can follow labels more or less \
closely. {FILES.format("the bound on log p in nats a coordinate")}""",
)

flow = Recipe(
    _flow,
    _loss,
    _results,
    options=(
        CONDITION,
        PRESET,
        COORDINATES,
        click.Option(
            ["--couple"],
            is_flag=True,
            help="Pair the cells of each minibatch with noise by optimal transport, within labels and near in depth: "
            "straighter ways, for samplers of few steps; a larger --size pairs better.",
        ),
        N_HIDDEN,
    ),
    sample=_sample,
    guided=True,
    samplers=("heun", "euler", "dopri"),
    help=f"""Train flow matching on the coordinates of cells, told their depth and, with --condition, their labels.

{WAY.format("noise is carried to these along straight lines in the mean")} The held-out loss, always with the same \
noise, decides when to stop; that of coupled pairs is lower, and not to be compared with that of others. `sample \
--sampler` and `--evaluations` say how the way is walked; a tenth of the training cells are not told their labels, so \
that `sample --scale` can follow labels more or less closely. {FILES.format("log p in nats a coordinate")}""",
)

ebm = Recipe(
    _energy,
    _loss,
    _results,
    options=(
        COORDINATES,
        click.Option(
            ["--chain-steps"],
            type=Whole(1),
            default=20,
            metavar="INT",
            help="Langevin steps by which chains go on between two steps of training; time grows with it.",
        ),
        click.Option(
            ["--step-size"],
            type=Real(0, min_open=True),
            default=0.02,
            metavar="FLOAT",
            help="Size of a Langevin step, of coordinates with variance 1; a chain that leaves for infinity asks for "
            "a smaller one.",
        ),
        N_HIDDEN,
    ),
    sample=_sample,
    samplers=("langevin", "hmc"),
    help=f"""Train an energy of the coordinates of cells by persistent contrastive divergence; it is told neither \
depth nor labels.

{WAY.format("an energy bends their Gaussian")} Two thousand chains begin at training cells, and one in twenty that \
goes on begins there again, so the shares of far-apart cell types are the data's and not the energy's. The average of \
the weights is what is judged and drawn from. Minus the held-out log p in nats, by annealed importance sampling, \
decides when to stop; depths are drawn apart. {FILES.format("log p in nats a coordinate")}""",
)
