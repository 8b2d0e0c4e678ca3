"""The models of `python -m lab train` and their options: a command says what sets it apart, `Options` what all share.

Nothing heavy is imported before the options are known to be right.
"""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Out = Annotated[
    Path,
    tyro.conf.arg(
        help="a folder for the results: new, empty, or that of the run to continue, which the same command does. It receives "
        "model.safetensors, genes.txt (the model's inputs, in order), latent.h5ad (your cells, in their order, with "
        "posterior means in obsm['X_vae']), metrics.csv (one row per step) and run.json (arguments, versions, the "
        "conditions' labels, ELBO and IWAE bound of the held-out cells)."
    ),
]
Genes = Annotated[
    int | Literal["all"] | None,
    tyro.conf.arg(metavar="INT|all", help_behavior_hint="(default: 2000, or all where there are fewer)"),
]
Steps = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: by --epochs)")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


class Misunderstood(Exception):
    """The command line itself is wrong; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every model's command takes."""

    data: str
    """an .h5ad file, or the name of a set that `python -m lab data` lists, such as pbmc."""
    out: Out
    layer: str = "counts"
    """where the raw counts are; X for adata.X."""
    genes: Genes = None
    """how many of the most variable genes to model (chosen on training cells), or all."""
    n_latent: int = 10
    """coordinates of the latent space."""
    n_hidden: int = 128
    """units of the hidden layers."""
    epochs: int = 100
    """passes over the training cells, at most."""
    steps: Steps = None
    """steps to take instead of whole epochs."""
    patience: int = 20
    """stop after so many validations (one per epoch) without a better held-out loss."""
    size: int = 128
    """cells per minibatch, over all processes (torchrun --nproc_per_node 2 -m lab train ... starts two)."""
    lr: float = 1e-3
    """learning rate."""
    validation: float = 0.1
    """fraction of the cells that is held out."""
    seed: int = 0
    """fixes the split, the initial weights, the order of the cells and the noise."""

    def check(self, **counts: int) -> None:
        """Refuse what no run can use, in these options and among further `counts`, which are 1 or more."""
        whole = {name: getattr(self, name) for name in "n_latent n_hidden epochs steps patience size genes".split()}
        for name, value in (whole | counts).items():
            if value not in (None, "all") and value < 1:
                raise Misunderstood(f"--{name.replace('_', '-')} {value}: give 1 or more")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise Misunderstood(f"--lr {self.lr}: a learning rate is positive and finite; 0.001 is a good start")
        if not 0 < self.validation < 1:
            raise Misunderstood(
                f"--validation {self.validation}: it is the fraction of cells held out, above 0 and below 1"
            )
        if not 0 <= self.seed < 2**63:
            raise Misunderstood(f"--seed {self.seed}: give a whole number from 0 to 2^63 - 1")
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if self.size % processes:
            raise Misunderstood(
                f"--size {self.size} cannot be shared by {processes} processes; give a multiple of {processes}"
            )


Common = Annotated[Options, tyro.conf.arg(name="")]


def vae(options: Common) -> None:
    """Train a count VAE (log1p encoder, negative-binomial decoder) on any AnnData with raw counts.

    The held-out loss, minus the ELBO, decides when to stop.
    """
    options.check()
    from lab.vae import loss

    _run("vae", options, lambda model, b: loss(model, b))


def cvae(options: Common, *, conditions: Names) -> None:
    """Train a conditional count VAE: both networks are told each cell's tissue, batch, ..., so that z need not say it.

    run.json keeps each condition's labels in the order of their codes, which are the rows of the learned tables.

    Args:
        conditions: one or several obs columns with labels, such as `--conditions tissue batch`.
    """
    options.check()
    for name in conditions:
        if name in ("x", "log_library"):
            raise Misunderstood(f"--conditions {name}: a minibatch has its own {name!r}; rename that obs column")
        if conditions.count(name) > 1:
            raise Misunderstood(f"--conditions: {name!r} is named more than once; name each column once")
    if not conditions:
        raise Misunderstood("--conditions: name one or more obs columns, or train vae, which needs none")
    from lab.vae import loss

    _run("cvae", options, lambda model, b: loss(model, b), conditions)


def beta_vae(options: Common, *, beta: float = 4.0, warm_up: int = 0) -> None:
    """Train a count VAE whose KL is weighted by beta: above 1 fewer coordinates in use, below 1 a closer fit.

    The held-out loss, which decides when to stop, has the full beta from the first step, so keep the warm-up shorter
    than --patience epochs.

    Args:
        beta: weight of the KL.
        warm_up: steps over which the weight rises linearly from 0 to beta.
    """
    options.check()
    if not (beta >= 0 and math.isfinite(beta)):
        raise Misunderstood(f"--beta {beta}: a weight is 0 or more and finite; 4 is a good start")
    if warm_up < 0:
        raise Misunderstood(f"--warm-up {warm_up}: give a number of steps, 0 for none")
    from lab.run import WarmedUp

    _run("beta-vae", options, WarmedUp(beta, warm_up), beta=beta, warm_up=warm_up)


def iwae(options: Common, *, k: int = 8, doubly: Flag = False) -> None:
    """Train a count VAE on the importance-weighted bound of k samples, tighter than the ELBO.

    The held-out loss, which decides when to stop, is minus that bound.

    Args:
        k: samples of z for each cell; time and memory grow with it.
        doubly: doubly reparameterised gradients for the encoder, less noisy at large k.
    """
    options.check(k=k)
    from lab.vae import iwae_loss

    _run("iwae", options, lambda model, b: iwae_loss(model, b, k=k, doubly=doubly), k=k, doubly=doubly)


def _run(model: str, options: Options, loss: Callable, conditions: tuple[str, ...] = (), **settings) -> None:
    from lab.run import train_vae

    given = asdict(options)
    train_vae(given.pop("data"), given.pop("out"), loss, model=model, conditions=conditions, settings=settings, **given)


MODELS = {"vae": vae, "cvae": cvae, "beta-vae": beta_vae, "iwae": iwae}
