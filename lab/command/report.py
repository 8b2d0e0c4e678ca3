"""`report HELD_OUT.h5ad SAMPLES.h5ad`: how good drawn cells are, beside real ones, as a table and a figure."""

from pathlib import Path

import anndata as ad

from lab import metrics, plot
from lab.data.counts import matrix_of
from lab.errors import Refused

from .cells import called, counts_of, has_counts, read_cells, with_genes
from .folder import free, say, write


def report(
    *, held_out: str, samples: str, train: str | None, label: str | None, out: Path, layer: str | None, seed: int
) -> None:
    """Print `metrics.sample_report` of two files on the genes of `samples`, and leave it in the folder `out`.

    All are compared as counts, which `layer` finds among real cells, or, where no file holds any, as they stand in X.
    Raises `Refused`, one sentence: an `out` that holds something, genes that real cells lack, and whatever the report
    refuses.
    """
    if not free(out):
        raise Refused(f"{out} is there and not an empty folder; give a new one")
    drawn = on_scale(samples, None)
    real, known = (file and on_scale(file, layer, drawn.var_names) for file in (held_out, train))
    for column, level in drawn.uns["sample"].get("condition", {}).items():
        if column in real.obs and (others := (real.obs[column].astype(str) != level).sum()):
            say(
                f"{samples} was drawn as {column}={level}, which {others:,} of the real cells are not: compare with "
                "those that are"
            )
    table = metrics.sample_report(real, drawn, train=known, label=label, seed=seed)
    out.mkdir(exist_ok=True)
    plot.style()
    figure = plot.report({Path(samples).stem: table}).figure
    write(out / "report.csv", table.to_csv)
    write(out / "report.png", lambda path: figure.savefig(path, format="png", facecolor="white"))
    say(table.round(3).to_string())
    said = f"{table.index.name}, {drawn.n_vars:,} genes"
    say(f"{out}: {said}; of samples of real cells nine in ten lie between low and high")


def on_scale(file: str, layer: str | None, genes=None, *, named: str = "samples") -> ad.AnnData:
    """The cells of a file with `genes`, those of what is `named`, else all: counts in layers["counts"], or X where
    there are none; and what `sample` wrote of them, in uns."""
    cells = read_cells(file)
    counted = layer is not None or has_counts(cells)
    cells, layer = counts_of(cells, layer) if counted else (cells, "X")
    say(f"{file}: {f'counts from {called(layer)}' if counted else 'no counts, X as it stands'}")
    if genes is None:
        genes = cells.var_names
    if absent := [gene for gene in genes if gene not in cells.var_names]:
        raise Refused(
            f"{file} lacks {len(absent):,} of the {len(genes):,} genes of the {named} (first: {absent[0]!r}); draw "
            f"{named} from a model of the genes that real cells have"
        )
    if cells.n_vars > len(genes):
        say(f"{file}: {len(genes):,} of its {cells.n_vars:,} genes, those of the {named}, are compared")
    chosen = with_genes(cells, layer, genes)
    place = {"layers": {"counts": matrix_of(chosen, layer)}} if counted else {"X": matrix_of(chosen, layer)}
    drawn = {"sample": dict(cells.uns.get("sample", {}))}
    return ad.AnnData(**place, obs=chosen.obs, var=chosen.var, uns=drawn)
