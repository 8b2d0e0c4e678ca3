"""Kang 2018: the archive's files in miniature, and the development subset."""

import gzip

import numpy as np
import pandas as pd
import pytest
from miniature import hashed, mtx, tar

from lab import data
from lab.data.catalogue import kang


def test_kang_joins_counts_and_labels_by_barcode_also_where_both_samples_have_it(lab_data, monkeypatch):
    ctrl, stim = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7, 8], [9, 10]])  # (B, G)
    zipped = lambda text: gzip.compress(text.encode())
    tar(
        lab_data / "GSE96583_RAW.tar",
        {
            "GSM2560248_2.1.mtx.gz": gzip.compress(mtx(ctrl.T)),
            "GSM2560248_barcodes.tsv.gz": zipped("AAA-1\nCCC-1\nGGG-1\n"),
            "GSM2560249_2.2.mtx.gz": gzip.compress(mtx(stim.T)),
            "GSM2560249_barcodes.tsv.gz": zipped("AAA-1\nTTT-1\n"),
        },
        "w",
    )
    (lab_data / "GSE96583_batch2.genes.tsv.gz").write_bytes(zipped("ENSG1\tISG15\nENSG2\tCD14\n"))
    table = pd.DataFrame(
        {
            "ind": [101, 107, 101, 101, 107],
            "stim": ["ctrl", "ctrl", "ctrl", "stim", "stim"],
            "cell": ["B cells", "NK cells", "B cells", "NK cells", None],
            "multiplets": ["singlet", "singlet", "doublet", "singlet", "singlet"],
        },
        index=["GGG-1", "AAA-1", "CCC-1", "AAA-11", "TTT-1"],
    )  # not in the matrix's order
    table.to_csv(lab_data / "GSE96583_batch2.total.tsne.df.tsv.gz", sep="\t")
    monkeypatch.setattr(kang, "CARD", hashed(kang.CARD, lab_data))
    cells = data.kang()
    assert cells.layers["counts"].toarray().tolist() == [
        [1, 2],
        [5, 6],
        [7, 8],
    ]  # the doublet and the unlabelled are out
    assert list(cells.obs["cell_type"]) == ["NK cells", "B cells", "NK cells"] and list(cells.obs["batch"]) == [
        "107",
        "101",
        "101",
    ]
    assert list(cells.obs["perturbation"]) == ["control", "control", "IFN-beta"] and list(cells.obs["n_counts"]) == [
        3,
        11,
        15,
    ]


@pytest.mark.real
def test_kang_subset_is_counts_with_both_conditions_in_seven_cell_types(capsys):
    cells = data.kang()
    assert "development subset" in capsys.readouterr().out and cells.shape == (1975, 6998)
    assert cells.obs["perturbation"].value_counts().to_dict() == {"IFN-beta": 1039, "control": 936}
    assert cells.obs["cell_type"].nunique() == 7 and (cells.obs["n_counts"] >= data.check_counts(cells)).all()
    prepared = data.prepare(cells, 500, min_genes=100)
    isg = prepared[:, "ISG15"]
    treated = (prepared.obs["perturbation"] == "IFN-beta").to_numpy()
    assert (
        isg.X[treated].mean() - isg.X[~treated].mean() > 2
    )  # the best known interferon-stimulated gene, in natural-log units
