"""`report HELD_OUT.h5ad SAMPLES.h5ad`: how good drawn cells are, beside real ones, as a table and a figure."""

from pathlib import Path

import anndata as ad

from lab import metrics, plot
from lab.data.counts import matrix_of
from lab.errors import Refused

from .cells import called, counts_of, has_counts, read_cells, with_genes
from .folder import say, write


def report(
    *, held_out: str, samples: str, train: str | None, label: str | None, out: Path, layer: str | None, seed: int
) -> None:
    """Print `metrics.sample_report` of two files on the genes of `samples`, and leave it in the folder `out`.

    All are compared as counts, which `layer` finds among real cells, or, where no file holds any, as they stand in X.
    Raises `Refused`, one sentence: an `out` that holds something, genes that real cells lack, and whatever the report
    refuses.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise Refused(f"{out} is there and not an empty folder; give a new one")
    if not out.parent.is_dir():
        raise Refused(f"there is no folder {out.parent} in which to make {out.name}; create it first")
    drawn = _on_scale(samples, None)
    real, known = (file and _with_genes_of(drawn, _on_scale(file, layer), file) for file in (held_out, train))
    table = metrics.sample_report(real, drawn, train=known, label=label, seed=seed)
    out.mkdir(exist_ok=True)
    plot.style()
    figure = plot.report({Path(samples).stem: table}).figure
    write(out / "report.csv", table.to_csv)
    write(out / "report.png", lambda path: figure.savefig(path, format="png", facecolor="white"))
    say(table.round(3).to_string())
    said = f"{table.index.name}, {drawn.n_vars:,} genes"
    say(f"{out}: {said}; of samples of real cells nine in ten lie between low and high")


def _on_scale(file: str, layer: str | None) -> ad.AnnData:
    """The cells of a file with counts alone, in layers["counts"]; with X alone where there are none."""
    cells = read_cells(file)
    if layer is None and not has_counts(cells):
        say(f"{file}: no counts, X as it stands")
        return ad.AnnData(cells.to_memory().X, obs=cells.obs, var=cells.var[[]])
    cells, layer = counts_of(cells, layer)
    say(f"{file}: counts from {called(layer)}")
    cells = with_genes(cells, layer, cells.var_names)
    return ad.AnnData(layers={"counts": matrix_of(cells, layer)}, obs=cells.obs, var=cells.var[[]])


def _with_genes_of(drawn: ad.AnnData, cells: ad.AnnData, file: str) -> ad.AnnData:
    """Real cells with the genes of the samples, of which a model draws only those that it was trained on."""
    if absent := [gene for gene in drawn.var_names if gene not in cells.var_names]:
        raise Refused(
            f"{file} lacks {len(absent):,} of the {drawn.n_vars:,} genes of the samples (first: {absent[0]!r}); draw "
            "samples from a model of the genes that real cells have"
        )
    if cells.n_vars > drawn.n_vars:
        say(f"{file}: {drawn.n_vars:,} of its {cells.n_vars:,} genes, those of the samples, are compared")
    return cells[:, drawn.var_names].copy()
