"""PBMC 3k and 68k: the archives of 10x, in miniature."""

import numpy as np
import pytest
from miniature import hashed, mtx, tar

from lab import data
from lab.data.catalogue import pbmc3k


@pytest.mark.parametrize(
    "name, folder", [("PBMC3K", "filtered_gene_bc_matrices/hg19"), ("PBMC68K", "filtered_matrices_mex/hg19")]
)
def test_the_archive_of_10x_is_read_without_extracting(lab_data, monkeypatch, name, folder, capsys):
    counts = np.random.default_rng(0).poisson(1.0, (4, 3))  # (B, G)
    archive = next(iter(getattr(pbmc3k, name).files)).rsplit("/", 1)[-1]
    tar(
        lab_data / archive,
        {
            f"{folder}/matrix.mtx": mtx(counts.T),
            f"{folder}/barcodes.tsv": b"AAAC-1\nAAAG-1\nAAAT-1\nAACA-1\n",
            f"{folder}/genes.tsv": b"ENSG1\tMT-CO1\nENSG2\tCD3D\nENSG3\tCD3D\n",
        },
    )
    monkeypatch.setattr(pbmc3k, name, hashed(getattr(pbmc3k, name), lab_data))
    cells = getattr(data, name.lower())()
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)
    assert list(cells.var_names) == ["MT-CO1", "CD3D", "CD3D-1"] and list(cells.var["gene_id"]) == [
        "ENSG1",
        "ENSG2",
        "ENSG3",
    ]
    assert cells.obs_names[0] == "AAAC-1" and cells.X is None and "4 cells x 3 genes" in capsys.readouterr().out
    assert [path.name for path in lab_data.iterdir()] == [archive]
    assert next(iter(data.loader(cells, size=4, shuffle=False)))["x"].shape == (4, 3)
