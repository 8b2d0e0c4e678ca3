"""Blood cells that 10x Genomics published whole: PBMC 3k and, the same in large, PBMC 68k."""

import tarfile
from pathlib import Path

import anndata as ad

from ..card import Card
from ..mex import read_mex
from ..public import announced, locate

TENX, PAGES = "https://cf.10xgenomics.com/samples/cell-exp/1.1.0", "https://www.10xgenomics.com/datasets"
ARCHIVE = "filtered_gene_bc_matrices.tar.gz"
PBMC3K = Card(
    call="pbmc3k()",
    kind="public",
    cells=2700,
    genes=32738,
    licence="CC BY 4.0",
    citation="zheng2017",
    source=f"{PAGES}/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0",
    files={
        f"{TENX}/pbmc3k/pbmc3k_{ARCHIVE}": "sha256:847d6ebd9a1ec9a768f2be7e40ca42cbfe75ebeb6d76a4c24167041699dc28b5"
    },
    instead="pbmc()",
)
PBMC68K = Card(
    call="pbmc68k()",
    kind="public",
    cells=68579,
    genes=32738,
    licence="CC BY 4.0",
    citation="zheng2017",
    source=f"{PAGES}/fresh-68-k-pbm-cs-donor-a-1-standard-1-1-0",
    files={  # the hash that Bioconductor's TENxPBMCData records
        f"{TENX}/fresh_68k_pbmc_donor_a/fresh_68k_pbmc_donor_a_{ARCHIVE}": "md5:0c8c546cbadc8ea8eb45be6cfe040852"
    },
    instead="pbmc()",
)


def pbmc3k() -> ad.AnnData:
    """2,700 blood cells of one donor x 32,738 genes, raw counts in `layers["counts"]`, X empty: call `prepare` next.
    Downloads 7.6 MB.
    """
    return _from_archive(locate(PBMC3K)[0][0])


def pbmc68k() -> ad.AnnData:
    """68,579 blood cells of one donor x 32,738 genes, raw counts in `layers["counts"]`, X empty: call `prepare`."""
    return _from_archive(locate(PBMC68K)[0][0])


def _from_archive(path: Path) -> ad.AnnData:
    """The three files stand in some folder of a .tar.gz; nothing is extracted."""
    with tarfile.open(path) as tar:
        inside = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        files = [tar.extractfile(inside[name]) for name in ("matrix.mtx", "genes.tsv", "barcodes.tsv")]
        return announced(path.name, read_mex(*files))
