"""Genes as one sequence: what `train bimamba` trains, from tables of loci and descriptors, and what it reports."""

import io
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

import anndata as ad
import numpy as np
import pandas as pd
from accelerate.utils import send_to_device

from lab import perturb, transcriptome
from lab.errors import Refused
from lab.nets import Minibatch

from . import parts, perturbed
from .folder import first, say
from .perturbed import controls, design

HEADS = {"linear": transcriptome.LogExpression, "probabilistic": transcriptome.CountLaw}


def columns(cells: ad.AnnData, options: dict) -> tuple[dict, list]:
    """The perturbation, and the full total where cells have it and log expression is what is learned."""
    labels, numbers = perturbed.columns(cells, options)
    full = options["head"] == "linear" and "n_counts" in cells.obs
    return labels, [*numbers, *(["n_counts"] if full else [])]


def gather(source: str, options: dict) -> parts.Cells:
    """As `parts.gather`; with `hold_out` "perturbations", all cells of a perturbation are held out or none."""
    together = {"by": options["perturbation"], "called": "perturbations", "never": options["control"]}
    return parts.gather(source, options, columns, **(together if whole(options) else {}))


def whole(options: dict) -> bool:
    """Whether perturbations are held out rather than cells."""
    return options["hold_out"] == "perturbations"


def bimamba(known, options: dict) -> transcriptome.Predictor:
    """A run that is reopened takes all but names from its weights; only a table of descriptors is read again."""
    new, of, genes = known.batches is not None, design(known, options), pd.Index(known.genes)
    with nullcontext() if new and first() else redirect_stdout(io.StringIO()):
        where = _loci(options["annotation"], genes, new)
        pathways = _pathways(known, options, genes, new)
        tokens = transcriptome.GeneTokens(where, pathways, width=options["width"])
        head = HEADS[options["head"]](len(genes))
        if new:
            head.fit(of, known.batches)
        table = _descriptors(options["descriptors"], where, pathways)
        sizes = {"n_layers": options["layers"], "d_state": options["n_state"]}
        drop = 1.0 if whole(options) and table is None else 0.5  # no vector of its own for what is seldom seen again
        model = transcriptome.Predictor(of, tokens, head, descriptors=table, drop=drop, **sizes)
    told = (model.conditions.at >= 0) | model.conditions.own
    if not told.all():
        raise Refused(
            f"{model.conditions.parts[(~told).nonzero()[0, 0].item()]!r} is no gene of the sequence and has no "
            "descriptor, so that nothing is known of it when it is held out; give --descriptors, or --hold-out cells"
        )
    return model


def bimamba_loss(model: transcriptome.Predictor, b: Minibatch) -> dict:
    """`transcriptome.loss`."""
    return transcriptome.loss(model, b)


def judging(model: transcriptome.Predictor, cells) -> Callable[[], tuple[pd.DataFrame, dict]]:
    """A function of what the model then says of held-out cells: predicted mean profiles, and their R2 by gene about the
    mean of training perturbations, beside it the flattened one that any gene means score on."""
    device, control = next(model.parameters()).device, model.design.control
    on = lambda batches: (send_to_device(b, device) for b in batches)
    mean = transcriptome.profiles(model, on(cells.trained(shuffle=False)))[1].drop(control).mean().to_numpy()

    def judge():
        found, truth = (t.drop(control, errors="ignore") for t in transcriptome.profiles(model, on(cells.tested)))
        r2 = lambda **how: perturb.r2(found.to_numpy(), truth.to_numpy(), mean, **how)
        numbers = {"held-out R2 by gene": r2(), "flattened, which any gene means score on": r2(flat=True)}
        return found, numbers if len(truth) > 1 else {}

    return judge


def watch(model: transcriptome.Predictor, cells) -> Callable[[], str]:
    """A line of the same two numbers."""
    judge, none = judging(model, cells), "one perturbation is held out, and R2 takes two"
    return lambda: "; ".join(f"{name} {value:.4f}" for name, value in judge()[1].items()) or none


def results(model: transcriptome.Predictor, cells) -> tuple[dict, dict]:
    """`judging`'s numbers; of how many genes and perturbations nothing was known; and the predicted profiles."""
    report, _ = perturbed.results(model, cells, bimamba_loss, lambda *_: {}, None)
    found, numbers = judging(model, cells)()
    report |= numbers
    conditions, n = model.conditions, len(model.design.parts)
    report["genes without a locus"] = int((~model.tokens.known).sum())
    report["perturbations that are no gene here"] = int((conditions.at[:n] < 0).sum())
    if conditions.described:
        report["perturbations without a descriptor"] = int((~conditions.own[:n]).sum())
    x, by = found.to_numpy(np.float32), model.design.by
    table = ad.AnnData(x, obs=pd.DataFrame({by: found.index}, found.index), var=pd.DataFrame(index=found.columns))
    return report, {"profiles.h5ad": table.write_h5ad}


def _loci(file: str | None, genes: pd.Index, new: bool) -> pd.DataFrame:
    nowhere = pd.DataFrame({"chromosome": None, "start": np.nan}, genes)
    if not new:
        return nowhere
    if file is None:
        say(f"no --annotation: {len(genes):,} genes follow one another as in the file, and have no locus")
        return nowhere
    return transcriptome.loci(genes, _table(file, "a row a gene: symbol, chromosome, start"))


def _pathways(known, options: dict, genes: pd.Index, new: bool) -> pd.DataFrame | None:
    if not (n := options["n_pathways"]):
        return None
    if not new:
        return pd.DataFrame(np.zeros((len(genes), n + 1)), genes)
    own = controls(known, options)
    own.obs[options["perturbation"]] = options["control"]
    how = {"by": options["perturbation"], "control": options["control"], "seed": options["seed"]}
    return transcriptome.pathway_features(own, n, **how)


def _descriptors(source: str, where: pd.DataFrame, pathways: pd.DataFrame | None) -> pd.DataFrame | None:
    if source == "none":
        return None
    if source == "genes":
        return transcriptome.gene_descriptors(where, pathways)
    table = _table(source, "its name first, and numbers", index_col=0)
    try:
        return table.set_axis(table.index.astype(str)).astype(float)
    except ValueError:
        raise Refused(
            f"{source} holds what are no numbers: descriptors are a row a perturbation, its name first"
        ) from None


def _table(file: str, what: str, **how) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, sep=None, engine="python", **how)
    except OSError as error:
        raise Refused(f"{file} cannot be read ({error.strerror}); give the path of a table, {what}") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise Refused(f"{file} is no table of text, {what}, comma- or tab-separated") from error
    if "symbol" not in table and not how:
        table = table.set_index(table.columns[0])
    return table
