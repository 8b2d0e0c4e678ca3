"""`embed DIR CELLS.h5ad`: where other cells stand in the latent space of a finished run."""

from pathlib import Path

import anndata as ad
import torch

from lab.data import loader
from lab.errors import Refused

from .cells import as_counts, called, counts_of, open_cells
from .folder import kind, recipe_of, reopen, say, write

MISSING = 0.1  # the share of a run's genes that cells may lack, and still be taken for cells of the same kind


def embed(*, run: Path, data: str, out: Path, layer: str | None) -> None:
    """Write to `out` the coordinates of the cells of `data`, with their obs, by the run's model.

    Genes are matched by name; no more than `MISSING` of the model's may be absent, which count as 0. Raises `Refused`,
    one sentence, for more of them, for labels that training did not have, and for what are no counts.
    """
    model, record = reopen(run)
    name, levels, genes = record["arguments"]["model"], record["conditions"], record["genes"]
    recipe = recipe_of(record)
    if recipe.embed is None:
        raise Refused(f"{run} holds {kind(record)}, which has no latent space; train one that has, such as vae")
    cells, layer, absent = matched(data, layer, genes, run)
    levels = {} if recipe.blind else levels
    size = record["arguments"]["size"]  # as in training, so that training cells come out to the bit
    chosen = as_counts(cells, layer, genes)
    with torch.no_grad():
        if recipe.gather:
            parts = [recipe.embed(model, chosen, record)]
        else:
            batches = loader(chosen, *levels, size=size, shuffle=False, categories=levels)
            parts = [recipe.embed(model, b) for b in batches]
    coordinates = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
    origin = {"run": str(run), "model": name, "data": data, "layer": layer, "genes missing": absent}
    write(out, ad.AnnData(obs=cells.obs, obsm=coordinates, uns={"embed": origin}).write_h5ad)
    say(f"{out}: {cells.n_obs:,} cells, counts from {called(layer)}, placed by the {name} in {run}")


def matched(data: str, layer: str | None, genes: list[str], run: Path) -> tuple[ad.AnnData, str, list[str]]:
    """The cells of `data`, the layer of their counts, and which of the run's `genes` they lack: said, or refused."""
    cells, layer = counts_of(open_cells(data), layer)
    return cells, layer, _absent(cells, genes, run)


def _absent(cells: ad.AnnData, genes: list[str], run: Path) -> list[str]:
    """The genes that the cells lack, once said; too many are refused."""
    absent = [gene for gene in genes if gene not in cells.var_names]
    if absent:
        few = ", ".join(absent[:5]) + ", ..." * (len(absent) > 5)
        said = f"{len(absent):,} of the {len(genes):,} genes of the run in {run} are missing ({few})"
        if len(absent) > MISSING * len(genes):
            better = max(cells.var.columns, key=lambda name: cells.var[name].isin(genes).sum(), default=None)
            named = better is not None and cells.var[better].isin(absent).any()
            remedy = f"var[{better!r}] has such names, adata.var_names = adata.var[{better!r}]" if named else ""
            raise Refused(f"{said}, more than {MISSING:.0%}; {remedy or 'use the annotation that training cells had'}")
        say(f"{said}, and count as 0")
    return absent
