"""From a file or a set's name to the cells of a run: in memory or on disk, with the counts that one rule finds."""

import io
from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from scipy import sparse

from lab import data
from lab.data.counts import by_gene, matrix_of, some, whole
from lab.errors import Refused

IN_MEMORY = 2e9  # bytes that a file holds once unpacked; a larger one stays on disk


def read_cells(source: str) -> ad.AnnData:
    """The cells of an .h5ad, in memory where it fits, else on disk, or of a set by its name. Raises `Refused`, one
    sentence: no such file or set, or cells whose names are not their own."""
    path = Path(source)
    if path.suffix == ".h5ad" or path.exists():
        cells = data.read(path, on_disk=_unpacked(path) > IN_MEMORY)
    else:
        names = [call.removesuffix("()") for call in data.sets().index]
        if source not in names:
            raise Refused(f"there is no file and no data set {source}; `python -m lab data` lists the sets")
        cells = getattr(data, source)()
    if not cells.obs_names.is_unique:
        twice = cells.obs_names[cells.obs_names.duplicated()][0]
        raise Refused(
            f"cell name {twice!r} occurs more than once, so that what is said of it could mean several; call "
            "adata.obs_names_make_unique() first"
        )
    return cells


def open_cells(source: str) -> ad.AnnData:
    """The same for a command that writes their obs: it is refused where no result could hold it."""
    cells = read_cells(source)
    if not _writable(cells.obs):
        bad = next((name for name in cells.obs if not _writable(cells.obs[[name]])), "the index")
        raise Refused(
            f"obs[{bad!r}] cannot be written, and what is written holds your obs; rename or remove it, such as "
            f"del adata.obs[{bad!r}]"
        )
    return cells


def counts_of(adata: ad.AnnData, layer: str | None = None) -> tuple[ad.AnnData, str]:
    """The cells with the genes of their raw counts, and the layer where these are: "X", or a name in `layers`, "raw"
    for adata.raw.X.

    `layer` names it. Without it: `layers["counts"]`, else `raw.X` where it holds integers, else `X` where it does.
    Raises `Refused` where none of them does, or two hold integers that differ in a gene and cell that both have.
    """
    if layer is None:
        there, integers = _places(adata)
        layer = "counts" if "counts" in there else next(iter(integers), None)
        if layer != "counts" and "unit" in adata.uns:
            raise Refused(f"these cells hold no counts but {adata.uns['unit']}; a model of counts cannot use them")
        if layer is None:
            without = f"{' and '.join(map(called, there)) or 'X'} hold{'s' * (len(there) < 2)} no integers"
            raise Refused(
                f"there is no layer 'counts', and {without}; name the layer with raw counts, --layer NAME (layers: "
                f"{', '.join(adata.layers) or 'none'}), or put them into adata.layers['counts']"
            )
        for other in integers[1:] if layer in integers else ():
            if where := _difference(adata, {name: there[name] for name in (layer, other)}):
                raise Refused(
                    f"{called(layer)} and {called(other)} both hold integers, and differ: {where}; say which are the "
                    f"raw counts, --layer {layer} or --layer {other}"
                )
    names = adata.raw.var_names if layer == "raw" and adata.raw is not None else adata.var_names
    if odd := [name for name in names if {"\n", "\r"} & set(str(name))]:
        raise Refused(f"gene name {odd[0]!r} has a line break, and names are written a line each; rename it")
    if layer == "raw" and adata.raw is not None:
        return holding(adata.raw.X, "raw", adata, names), "raw"
    if layer not in ("X", *adata.layers):
        raise Refused(
            f"the cells have no {'raw' if layer == 'raw' else f'layer {layer!r}'} (layers: "
            f"{', '.join(adata.layers) or 'none'}); name the one with raw counts, --layer NAME, or --layer X where X "
            "holds them"
        )
    return adata, layer


def has_counts(adata: ad.AnnData) -> bool:
    """Whether there is a place in which `counts_of` looks that holds integers, or is called counts."""
    there, integers = _places(adata)
    return "counts" in there or bool(integers)


def called(layer: str) -> str:
    """What Python calls the matrix that `--layer` names so."""
    return {"X": "X", "raw": "raw.X"}.get(layer, f"layers[{layer!r}]")


def holding(matrix, layer: str, cells: ad.AnnData, genes: Iterable[str]) -> ad.AnnData:
    """The same cells with this matrix alone, in the place that `layer` names."""
    place = {"X": matrix} if layer == "X" else {"layers": {layer: matrix}}
    return ad.AnnData(**place, obs=cells.obs, obsm=dict(cells.obsm), var={"var_names": list(genes)})


def with_genes(cells: ad.AnnData, layer: str, genes: Iterable[str]) -> ad.AnnData:
    """The cells in memory as CSR with these genes alone, in this order; one that the cells lack has no counts."""
    matrix, index = matrix_of(cells, layer), cells.var_names.get_indexer(list(genes))
    there = np.flatnonzero(index >= 0)
    ones = np.ones(len(there), _csr(matrix[:1]).dtype), (index[there], there)
    pick = sparse.csr_matrix(ones, shape=(cells.n_vars, len(index)))  # its products are the columns picked
    blocks = (_csr(matrix[start : start + 1024]) for start in range(0, cells.n_obs, 1024))
    return holding(sparse.vstack([block @ pick for block in blocks], "csr"), layer, cells, genes)


def as_counts(cells: ad.AnnData, layer: str, genes: Iterable[str]) -> ad.AnnData:
    """The same, their counts in layers["counts"] wherever they were."""
    chosen = with_genes(cells, layer, genes)
    return holding(matrix_of(chosen, layer), "counts", cells, chosen.var_names)


def _places(adata: ad.AnnData) -> tuple[dict, list[str]]:
    """Where counts may stand, each name with its matrix, and which of them hold integers."""
    places = {"counts": adata.layers.get("counts"), "raw": None if adata.raw is None else adata.raw.X, "X": adata.X}
    there = {name: matrix for name, matrix in places.items() if matrix is not None}
    return there, [name for name, matrix in there.items() if whole(matrix, adata.n_obs)]


def _csr(rows) -> sparse.csr_matrix:
    """Rows in memory as CSR, which has no float16."""
    return sparse.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)


def _writable(obs: pd.DataFrame) -> bool:
    """Whether `folder.write` can write this obs into an .h5ad."""
    try:
        table = ad.AnnData(obs=obs.copy())
        table.strings_to_categoricals()
        with ad.settings.override(allow_write_nullable_strings=True), h5py.File(io.BytesIO(), "w") as file:
            write_elem(file, "obs", table.obs)
    except Exception:  # pandas, anndata and h5py each have their own
        return False
    return True


def _unpacked(path: Path) -> int:
    """The bytes of a file once unpacked; 0 where it cannot be read, of which `data.read` says why."""
    sizes = []
    try:
        with h5py.File(path) as file:
            file.visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    except Exception:  # h5py raises many kinds
        return 0
    return sum(sizes)


def _difference(cells: ad.AnnData, matrices: dict) -> str:
    """Where two matrices of the same cells differ in a gene that both have; "" where they agree as far as one looks."""
    if any(map(by_gene, matrices.values())):
        return ""
    names = [cells.raw.var_names if name == "raw" else cells.var_names for name in matrices]
    shared = names[0].drop_duplicates(keep=False).intersection(names[1].drop_duplicates(keep=False))
    rows = some(cells.n_obs)
    one, other = (_csr(matrix[rows])[:, of.get_indexer_for(shared)] for matrix, of in zip(matrices.values(), names))
    if not (where := np.argwhere(one != other)).size:
        return ""
    cell, gene = where[0]
    return f"{one[cell, gene]:g} and {other[cell, gene]:g} of {shared[gene]!r} in cell {cells.obs_names[rows[cell]]!r}"
