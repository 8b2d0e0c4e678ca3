"""Papalexi 2021: scPerturb's file in miniature, and the development subset."""

import numpy as np
import pytest
from miniature import hashed
from published import scperturb_file

from lab import data
from lab.data.catalogue import papalexi

FILE = "PapalexiSatija2021_eccite_RNA.h5ad"


def test_guides_are_told_from_their_target(lab_data, monkeypatch):
    guides = ["NTg7", "STAT2g1", "ATG5g12", "STAT2g3", "NTg1"]
    labels = ["control", "STAT2g1", "ATG5g12", "STAT2g3", "control"]
    obs = {"guide_id": guides, "hto": ["rep1-tx", "rep3-tx", "rep1-tx", "rep2-tx", "rep1-tx"]}
    counts = scperturb_file(lab_data / FILE, labels, [0, 1, 1, 1, 0], **obs)
    monkeypatch.setattr(papalexi, "CARD", hashed(papalexi.CARD, lab_data))
    cells = data.papalexi()
    assert list(cells.obs["perturbation"]) == ["control", "STAT2", "ATG5", "STAT2", "control"]
    assert list(cells.obs["guide"]) == guides and list(cells.obs["batch"]) == obs["hto"]
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)
    some = data.papalexi(["STAT2"])
    np.testing.assert_array_equal(some.layers["counts"].toarray(), counts[[0, 1, 3, 4]])


@pytest.mark.real
def test_papalexi_subset_has_twenty_five_targets_in_three_replicates(capsys):
    cells = data.papalexi()
    assert "development subset" in capsys.readouterr().out and cells.shape == (20729, 299)
    size = cells.obs["perturbation"].value_counts()
    assert len(size) == 26 and size["control"] == 2386 and (size.drop("control") >= 200).sum() == 23
    assert cells.obs["batch"].nunique() == 3 and cells.obs["confident"].sum() == 16093
    target = cells.obs["guide"].astype(str).str.replace(r"g\d+$", "", regex=True).replace("NT", "control")
    assert (target == cells.obs["perturbation"].astype(str)).all()
    data.check_counts(cells)
