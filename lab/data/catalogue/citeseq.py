"""CITE-seq: RNA and surface proteins of the same blood cells, published by 10x Genomics."""

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

from ..card import Card
from ..public import announced, locate
from ..read import read

TENX = "https://cf.10xgenomics.com/samples/cell-exp/3.0.2/5k_pbmc_protein_v3/5k_pbmc_protein_v3"
CARD = Card(
    call="citeseq()",
    kind="public",
    cells=5247,
    genes=33538,
    licence="CC BY 4.0",
    citation="tenx2019",
    source="https://support.10xgenomics.com/single-cell-gene-expression/datasets/3.0.2/5k_pbmc_protein_v3",
    files={  # the hash that muon's mudatasets records
        f"{TENX}_filtered_feature_bc_matrix.h5": "md5:3366a47283177fe9af143d5819fad61f"
    },
    instead="pbmc()",
    subset="pbmc_5k_protein_v3.h5ad",
)


def citeseq() -> ad.AnnData:
    """5,247 blood cells x 33,538 genes with surface proteins beside: `layers["counts"]`, and `obsm["protein"]`, a table
    of counts.

    The development subset has 200 cells, 16,581 genes and 29 proteins without names.
    """
    (path, *_), published = locate(CARD)
    if published:
        both = sc.read_10x_h5(path, gex_only=False)
        both.var_names_make_unique()
        gene = (both.var["feature_types"] == "Gene Expression").to_numpy()
        cells, protein = both[:, gene], both[:, ~gene].to_df()
    else:
        cells = read(path)
        protein = pd.DataFrame(cells.obsm["protein_expression"], cells.obs_names)
    counts = sparse.csr_matrix(cells.X, dtype=np.int32)
    obsm = {"protein": protein.astype(np.int32)}
    return announced("citeseq", ad.AnnData(layers={"counts": counts}, obs=cells.obs[[]], var=cells.var[[]], obsm=obsm))
