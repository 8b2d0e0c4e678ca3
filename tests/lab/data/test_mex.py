"""Matrix Market, read from a folder or from inside an archive, as scanpy reads it."""

import gzip
import tarfile

import numpy as np
import pytest
import scanpy as sc
from miniature import mtx, tar

from lab.data.mex import read_mex

COUNTS = np.random.default_rng(0).poisson(1.0, (4, 3))  # (B, G)
FILES = {
    "matrix.mtx": mtx(COUNTS.T),
    "features.tsv": b"".join(
        b"ENSG%d\t%s\tGene Expression\n" % gene for gene in ((1, b"MT-CO1"), (2, b"CD3D"), (3, b"CD3D"))
    ),
    "barcodes.tsv": b"AAAC-1\nAAAG-1\nAAAT-1\nAACA-1\n",
}


def same(cells, reference):
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), reference.X.toarray())
    assert cells.layers["counts"].format == "csr" and cells.layers["counts"].dtype == np.int32 and cells.X is None
    assert list(cells.obs_names) == list(reference.obs_names) and list(cells.var_names) == list(reference.var_names)
    assert list(cells.var["gene_id"]) == list(reference.var["gene_ids"]) and list(cells.var) == ["gene_id"]


@pytest.fixture
def reference(tmp_path):
    """The same files through scanpy, which takes them packed."""
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return sc.read_10x_mtx(tmp_path, make_unique=True)


def test_packed_files_in_a_folder_are_read_as_scanpy_reads_them(tmp_path, reference):
    same(read_mex(*(tmp_path / f"{name}.gz" for name in FILES)), reference)


def test_plain_files_are_read_too(tmp_path, reference):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    same(read_mex(*(tmp_path / name for name in FILES)), reference)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_members_of_an_archive_are_read_packed_or_plain(tmp_path, reference, mode, pack):
    tar(tmp_path / "archive", {f"in/{name}": pack(content) for name, content in FILES.items()}, mode)
    with tarfile.open(tmp_path / "archive") as archive:
        same(read_mex(*(archive.extractfile(f"in/{name}") for name in FILES)), reference)
