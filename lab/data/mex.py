"""Matrix Market: the three text files in which instruments and archives publish counts."""

import gzip
import io
from pathlib import Path
from typing import BinaryIO

import anndata as ad
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from scipy import sparse
from scipy.io import mmread


def read_mex(matrix: Path | BinaryIO, genes: Path | BinaryIO, barcodes: Path | BinaryIO) -> ad.AnnData:
    """Cells from a matrix of genes x cells, a table of genes (identifier, symbol) and a list of barcodes: raw counts in
    `layers["counts"]` (CSR, int32), X empty, genes named by symbol (a repeated one gets a suffix), `var["gene_id"]`.

    Each is a path, or a binary file such as a member of an archive; packed with gzip or not.
    """
    counts = sparse.csr_matrix(mmread(_unpacked(matrix)).T, dtype=np.int32)  # (B, G)
    var = pd.read_csv(_unpacked(genes), sep="\t", header=None, usecols=[0, 1], names=["gene_id", "symbol"])
    names = pd.read_csv(_unpacked(barcodes), header=None)[0].astype(str).to_numpy()
    var = var.set_index(make_index_unique(pd.Index(var.pop("symbol").astype(str).to_numpy())))
    return ad.AnnData(layers={"counts": counts}, obs=pd.DataFrame(index=names), var=var)


def _unpacked(file: Path | BinaryIO) -> BinaryIO:
    file = file.open("rb") if isinstance(file, Path) else file
    packed = file.peek(2)[:2] == b"\x1f\x8b"
    return gzip.open(file) if packed else io.BytesIO(file.read())  # mmread goes back and forth, slow inside an archive
