"""Guo et al. 2010: 48 genes in every cell of mouse embryos from two cells to sixty-four, by quantitative PCR."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from lab.errors import Refused

from ..card import Card
from ..public import announced, locate
from ..rda import read_rda

DETECTION = 28.0  # cycles after which a gene counts as not detected
HOUSEKEEPING = ["Actb", "Gapdh"]
DESTINY = "https://raw.githubusercontent.com/theislab/destiny/48962d2c0ebfc17139e930024b9976e758b023ae"
CARD = Card(
    call="guo()",
    kind="public",
    cells=428,
    genes=48,
    licence="GPL-3, that of the package destiny, which carries the table",
    citation="guo2010",
    source="https://github.com/theislab/destiny",
    files={  # the hash of what git, whose names are hashes themselves, keeps at this commit
        f"{DESTINY}/data/guo_norm.rda": "sha256:edf86b2ea39254b56628aaa61f16beab3c60be63aa1dbbd18bcd47f52a1bd01f"
    },
    instead="toys.moons()",
    subset="guo2010_qpcr_428x48.csv.gz",
)


def guo() -> ad.AnnData:
    """428 cells of mouse embryos x 48 genes, measured by quantitative PCR: no counts, and so no such layer.

    `X` is 28 minus the threshold cycle, log2 of the amount but for a constant, and 0 where nothing was detected;
    `layers["relative"]` is the same minus the mean of Actb and Gapdh in that cell. `obs`: `stage` (2C to 64C),
    `time` (how often the zygote has divided, 1 to 6), `batch` (the embryo). Downloads 60 kB.

    The published table subtracts from the values of one cell the housekeeping genes of others (a vector recycled along
    genes instead of cells). That is undone here, exactly: each subtracted number stands with at least one gene that was
    not detected, for which the cycle was 28. The result is the article's own supplementary table.
    """
    (path,), published = locate(CARD)
    values, names = _from_destiny(path) if published else _from_csv(path)
    cycles, lost = _undone(values.to_numpy(float))
    own = cycles[:, values.columns.get_indexer(HOUSEKEEPING)].mean(1)
    if not np.allclose(own, lost, atol=1e-6):
        raise Refused(f"{path} was normalised otherwise than the published table, and cannot be undone; fetch that one")
    var, obs = pd.DataFrame(index=values.columns), pd.DataFrame(index=list(names))
    cells = ad.AnnData((DETECTION - cycles).round(6).astype(np.float32), obs=obs, var=var)
    cells.layers["relative"] = (own[:, None] - cycles).round(6).astype(np.float32)
    stage = names.str.extract(r"^(\d+)C (\d+)\.")
    if stage.isna().any(axis=None):
        raise Refused(f"{path} names a cell otherwise than '16C 1.10', stage, embryo and cell; it is another table")
    order = [f"{2**k}C" for k in range(1, 7)]
    cells.obs["stage"] = pd.Categorical(stage[0] + "C", order)
    cells.obs["time"] = np.log2(stage[0].astype(float)).to_numpy()
    cells.obs["batch"] = pd.Categorical(stage[0] + "C embryo " + stage[1])
    cells.uns["unit"] = "28 - Ct, log2"
    return announced("guo", cells)


def _from_destiny(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Values, cells x genes, and the cells' names."""
    table = read_rda(path)["guo_norm"]
    found, about = table["assayData"]["exprs"], table["phenoData"]["data"]
    genes, _ = found["dimnames"]
    values = found["values"].reshape(tuple(found["dim"])[::-1])  # R has genes x cells, by columns
    column = dict(zip(about["names"], about["values"]))["Cell"]
    names = [column["levels"][code - 1] for code in column["values"]] if isinstance(column, dict) else column
    return pd.DataFrame(values, columns=genes), pd.Series(names)


def _from_csv(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_csv(path, index_col=0).reset_index(drop=True)
    return table.drop(columns=["Cell", "num_cells"]), table["Cell"]


def _undone(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threshold cycles (B, G), and what was subtracted (B,): entry i of the table, counted along genes within cells,
    lost the housekeeping mean of cell i modulo B."""
    flat, cell = values.ravel(), np.arange(values.size) % len(values)
    highest = np.full(len(values), -np.inf)
    np.maximum.at(highest, cell, flat)
    lost = DETECTION - highest
    return (flat + lost[cell]).reshape(values.shape), lost
