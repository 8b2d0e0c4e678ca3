"""CITE-seq: the published file in miniature, and the development subset."""

import h5py
import numpy as np
import pytest
from miniature import hashed
from scipy import sparse

from lab import data
from lab.data.catalogue import citeseq


def test_genes_and_antibodies_of_the_published_file_are_told_apart(lab_data, monkeypatch, capsys):
    counts = np.random.default_rng(0).poisson(2.0, (4, 5))  # (B, G and proteins)
    name = next(iter(citeseq.CARD.files)).rsplit("/", 1)[-1]
    with h5py.File(lab_data / name, "w") as file:
        matrix, csr = file.create_group("matrix"), sparse.csr_matrix(counts)
        matrix["data"], matrix["indices"], matrix["indptr"], matrix["shape"] = csr.data, csr.indices, csr.indptr, (5, 4)
        matrix["barcodes"] = [b"AAAC-1", b"AAAG-1", b"AAAT-1", b"AACA-1"]
        matrix["features/id"] = [b"ENSG1", b"ENSG2", b"ENSG3", b"CD3", b"CD19"]
        matrix["features/name"] = [b"CD3D", b"CD19", b"CD3D", b"CD3_TotalSeqB", b"CD19_TotalSeqB"]
        matrix["features/feature_type"] = [b"Gene Expression"] * 3 + [b"Antibody Capture"] * 2
        matrix["features/genome"] = [b"GRCh38"] * 5
    monkeypatch.setattr(citeseq, "CARD", hashed(citeseq.CARD, lab_data))
    cells = data.citeseq()
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts[:, :3])
    np.testing.assert_array_equal(cells.obsm["protein"], counts[:, 3:])
    assert list(cells.var_names) == ["CD3D", "CD19", "CD3D-1"] and cells.obs_names[0] == "AAAC-1" and cells.X is None
    assert list(cells.obsm["protein"].columns) == ["CD3_TotalSeqB", "CD19_TotalSeqB"]
    assert "citeseq: 4 cells x 3 genes" in capsys.readouterr().out


@pytest.mark.real
def test_citeseq_subset_has_proteins_beside_a_whole_transcriptome():
    cells = data.citeseq()
    assert cells.shape == (200, 16581) and cells.obsm["protein"].shape == (200, 29)
    assert (data.check_counts(cells) > 500).all()
    loader = data.loader(data.prepare(cells, 1000))
    assert next(iter(loader))["x"].shape == (128, 1000)
