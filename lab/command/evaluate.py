"""`evaluate PREDICTED.h5ad TRUTH.h5ad`: how good predicted perturbations are, beside what a model has to beat."""

from pathlib import Path

import pandas as pd

from lab import data, perturb, plot
from lab.errors import Refused

from .folder import free, say, write
from .report import on_scale


def evaluate(
    *,
    predicted: str,
    truth: str,
    control: str,
    truth_control: str,
    train: str | None,
    perturbation: str,
    separator: str,
    replicate: str | None,
    gene_sets: str | None,
    features: str | None,
    out: Path,
    layer: str | None,
    seed: int,
) -> None:
    """Print the medians of `perturb.evaluate`, what they leave out, and which metrics a mean predictor wins; leave all
    of it in the folder `out`. Raises `Refused`, one sentence: an `out` that holds something, files that cannot be read,
    and whatever the judge refuses."""
    if not free(out):
        raise Refused(f"{out} is there and not an empty folder; give a new one")
    known = None if features is None else _features(features)
    model = on_scale(predicted, None, named="predictions")
    files = {"truth": truth, "control": control, "truth_control": truth_control} | ({"train": train} if train else {})
    sides = {name: on_scale(file, layer, model.var_names, named="predictions") for name, file in files.items()}
    sets = None if gene_sets is None else data.programmes(model.var_names, gene_sets, min_genes=3)
    how = {"by": perturbation, "separator": separator, "replicate": replicate, "gene_sets": sets, "features": known}
    scores = perturb.evaluate(model, **sides, **how, seed=seed)
    out.mkdir(exist_ok=True)
    plot.style()
    figure = perturb.draw(scores)
    of_each = scores.groupby(["metric", "row", "perturbation"], observed=True)["value"]
    write(out / "report.csv", perturb.summary(scores).to_csv)
    write(out / "perturbations.csv", of_each.agg(value="mean", spread="std").to_csv)
    write(out / "report.png", lambda path: figure.savefig(path, format="png", facecolor="white"))
    say(_readable(perturb.at_a_glance(scores)).to_string())
    for note in scores.attrs["notes"]:
        say(f"note: {note}")
    n, splits = scores["perturbation"].nunique(), scores["split"].nunique()
    say(f"{out}: medians over {n} perturbations, of {model.n_vars:,} genes, baselines over {splits} splits of controls")


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Three digits; a ceiling that cannot be estimated says so, and a row that says nothing is a dash."""
    words = table.map("{:.3g}".format).where(table.notna(), "-")
    if "ceiling" in words:
        words["ceiling"] = words["ceiling"].where(table["ceiling"].notna(), "not estimable")
    return words


def _features(file: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, index_col=0, dtype={0: str}, keep_default_na=False).astype(float)
        if not table.size:
            raise ValueError("nothing between commas")
        return table
    except OSError as error:
        raise Refused(f"{file} cannot be read ({error.strerror}); give the path of a table of features") from error
    except ValueError as error:
        raise Refused(
            f"{file} is no table of features: a comma-separated line a perturbation, its name first, and numbers"
        ) from error
