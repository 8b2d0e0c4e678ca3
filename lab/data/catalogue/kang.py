"""Kang et al. 2018: blood of eight patients with and without interferon beta, from the Gene Expression Omnibus."""

import tarfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..card import Card
from ..mex import read_mex
from ..public import announced, locate
from ..read import read
from ..screens import as_screen

GEO = "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE96nnn/GSE96583/suppl/GSE96583"
CARD = Card(
    call="kang()",
    kind="public",
    cells=24673,
    genes=35635,
    licence="none stated; NCBI restricts no GEO data",
    citation="kang2018",
    source="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE96583",
    files={
        f"{GEO}_RAW.tar": "sha256:e5d41a3248a813f99d68fd5c9eb9773de7f46a83680a67f4a02d683b8955fe80",
        f"{GEO}_batch2.genes.tsv.gz": "sha256:93aa4e9b530ef9d6411ca129b416324c5cc1cc5a01a1fa6ed4f4a845480ed3ca",
        f"{GEO}_batch2.total.tsne.df.tsv.gz": "sha256:1d57e72e92ca8695250e88cc0f1c3fa8c0be1175d974f8b427c58f1274dc6c09",
    },
    instead="bulk()",
    subset="kang_pbmc_ifnb_1975x6998_counts.h5ad",
)


def kang() -> ad.AnnData:
    """24,673 blood cells of eight lupus patients x 35,635 genes, half of them stimulated with interferon beta (GEO
    GSE96583).

    Raw counts in `layers["counts"]`, X empty: call `prepare` next. `obs`: the schema of `as_screen` (control,
    IFN-beta), `cell_type`, `batch` (the patient), `n_counts`; singlets with a cell type only. Downloads 77 MB. The
    development subset has 1,975 cells, 6,998 genes (45 % of each cell's UMIs: `n_counts` is the full total) and no
    patient: `batch` is absent there.
    """
    paths, published = locate(CARD)
    cells = _from_geo(*paths) if published else _from_subset(*paths)
    names = {"ctrl": "control", "control": "control", "stim": "IFN-beta", "stimulated": "IFN-beta"}
    cells.obs["perturbation"] = cells.obs["perturbation"].map(names).astype("category")
    keep = {name: name for name in ("cell_type", "batch", "n_counts") if name in cells.obs}
    return announced("kang", as_screen(cells, "perturbation", control="control", layer="counts", keep=keep))


def _from_geo(archive: Path, genes: Path, metadata: Path) -> ad.AnnData:
    labels = pd.read_csv(metadata, sep="\t", index_col=0)
    parts = []
    for sample, condition in (("GSM2560248", "ctrl"), ("GSM2560249", "stim")):
        with tarfile.open(archive) as tar:
            matrix = next(name for name in tar.getnames() if name.startswith(sample) and name.endswith(".mtx.gz"))
            part = read_mex(tar.extractfile(matrix), genes, tar.extractfile(f"{sample}_barcodes.tsv.gz"))
        mine, known = labels[labels["stim"] == condition], set(part.obs_names)
        # a barcode met in both samples carries one more "1" in the table's second half: AAAC…-1 -> AAAC…-11
        mine.index = [name if name in known else name.removesuffix("1") for name in mine.index]
        mine = mine.loc[part.obs_names]
        obs = {"perturbation": condition, "cell_type": mine["cell"], "batch": mine["ind"].astype(str)}
        part.obs = pd.DataFrame(obs)
        part.obs_names += f"-{condition}"
        parts.append(part[((mine["multiplets"] == "singlet") & mine["cell"].notna()).to_numpy()])
    cells = ad.concat(parts, merge="same")
    cells.obs["n_counts"] = np.asarray(cells.layers["counts"].sum(1)).ravel()
    cells.obs[["cell_type", "batch"]] = cells.obs[["cell_type", "batch"]].astype("category")
    return cells


def _from_subset(path: Path) -> ad.AnnData:
    cells = read(path)
    obs = cells.obs.rename(columns={"condition": "perturbation"})[["perturbation", "cell_type", "n_counts"]]
    return ad.AnnData(layers={"counts": sparse.csr_matrix(cells.X, dtype=np.int32)}, obs=obs, var=cells.var[[]])
