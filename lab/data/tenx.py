"""Blood cells published by 10x Genomics: PBMC 3k, PBMC 68k, and 5k with surface proteins."""

import io
import tarfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from anndata.utils import make_index_unique
from scipy import sparse
from scipy.io import mmread

from .public import Source, locate
from .reading import read

TENX = "https://cf.10xgenomics.com/samples/cell-exp"
PAGES = "https://www.10xgenomics.com/datasets"
PBMC3K = Source(
    "pbmc3k",
    cells=2700,
    genes=32738,
    licence="CC BY 4.0",
    citation="zheng2017",
    instead="pbmc()",
    page=f"{PAGES}/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0",
    files={
        f"{TENX}/1.1.0/pbmc3k/pbmc3k_filtered_gene_bc_matrices.tar.gz": "sha256:847d6ebd9a1ec9a768f2be7e40ca42cbfe75ebeb6d76a4c24167041699dc28b5"
    },
)
PBMC68K = Source(
    "pbmc68k",
    cells=68579,
    genes=32738,
    licence="CC BY 4.0",
    citation="zheng2017",
    instead="pbmc()",
    page=f"{PAGES}/fresh-68-k-pbm-cs-donor-a-1-standard-1-1-0",
    files={
        f"{TENX}/1.1.0/fresh_68k_pbmc_donor_a/fresh_68k_pbmc_donor_a_filtered_gene_bc_matrices.tar.gz": "md5:0c8c546cbadc8ea8eb45be6cfe040852"
    },
)  # as Bioconductor's TENxPBMCData records it
CITESEQ = Source(
    "citeseq",
    cells=5247,
    genes=33538,
    licence="CC BY 4.0",
    citation="tenx2019",
    instead="pbmc()",
    page="https://support.10xgenomics.com/single-cell-gene-expression/datasets/3.0.2/5k_pbmc_protein_v3",
    files={
        f"{TENX}/3.0.2/5k_pbmc_protein_v3/5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5": "md5:3366a47283177fe9af143d5819fad61f"
    },  # as muon's mudatasets records it
    subset="pbmc_5k_protein_v3.h5ad",
)


def pbmc3k() -> ad.AnnData:
    """2,700 blood cells of one donor x 32,738 genes, raw counts in `layers["counts"]`, X empty: call `prepare` next.
    Downloads 7.6 MB.
    """
    return read_mex(locate(PBMC3K)[0][0])


def pbmc68k() -> ad.AnnData:
    """68,579 blood cells of one donor x 32,738 genes, raw counts in `layers["counts"]`, X empty: call `prepare`."""
    return read_mex(locate(PBMC68K)[0][0])


def citeseq() -> ad.AnnData:
    """5,247 blood cells x 33,538 genes with surface proteins beside: `layers["counts"]`, and `obsm["protein"]`, a table
    of counts.

    The development subset has 200 cells, 16,581 genes and 29 proteins without names.
    """
    (path, *_), published = locate(CITESEQ)
    if published:
        both = sc.read_10x_h5(path, gex_only=False)
        both.var_names_make_unique()
        gene = (both.var["feature_types"] == "Gene Expression").to_numpy()
        cells = both[:, gene].copy()
        cells.obsm["protein"] = both[:, ~gene].to_df().astype(np.int32)
    else:
        cells = read(path)
        cells.obsm["protein"] = pd.DataFrame(cells.obsm.pop("protein_expression"), cells.obs_names).astype(np.int32)
    return _report(
        "citeseq",
        ad.AnnData(
            layers={"counts": _int32(cells.X)},
            obs=cells.obs[[]],
            var=cells.var[[]],
            obsm={"protein": cells.obsm["protein"]},
        ),
    )


def read_mex(archive: Path) -> ad.AnnData:
    """The cells in a .tar.gz of 10x's three text files (matrix.mtx, genes.tsv, barcodes.tsv), as raw counts; nothing is
    extracted.
    """
    with tarfile.open(archive) as tar:
        inside = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        matrix = mmread(io.BytesIO(tar.extractfile(inside["matrix.mtx"]).read()))  # (G, B)
        genes = pd.read_csv(tar.extractfile(inside["genes.tsv"]), sep="\t", header=None, names=["gene_id", "symbol"])
        barcodes = pd.read_csv(tar.extractfile(inside["barcodes.tsv"]), header=None)[0]
    cells = ad.AnnData(
        layers={"counts": _int32(matrix.T)},
        obs=pd.DataFrame(index=barcodes.astype(str).to_numpy()),
        var=genes.set_index(make_index_unique(pd.Index(genes.pop("symbol").astype(str).to_numpy()))),
    )
    return _report(archive.name, cells)


def _int32(matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix(matrix, dtype=np.int32)


def _report(name: str, cells: ad.AnnData) -> ad.AnnData:
    print(f"{name}: {cells.n_obs:,} cells x {cells.n_vars:,} genes")
    return cells
