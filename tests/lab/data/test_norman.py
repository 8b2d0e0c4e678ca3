"""Norman 2019: scPerturb's file in miniature, and the development subset."""

import numpy as np
import pytest
from miniature import hashed
from published import scperturb_file

from lab import data
from lab.data.catalogue import norman
from lab.errors import Refused

FILE = "NormanWeissman2019_filtered.h5ad"
OBS = {"guide_id": ["g1", "g2", "g3", "g4", "g5"], "gemgroup": [1, 2, 1, 2, 1], "celltype": "lymphoblasts"}
LABELS, NUMBERS = ["control", "SET_KLF1", "KLF1", "KLF1_SET", "RP5_862P8.2"], [0, 2, 1, 2, 1]


@pytest.fixture
def published(lab_data, monkeypatch):
    counts = scperturb_file(lab_data / FILE, LABELS, NUMBERS, **OBS)
    monkeypatch.setattr(norman, "CARD", hashed(norman.CARD, lab_data))
    return counts


def test_pairs_are_named_alike_in_both_orders_and_a_name_with_an_underscore_is_one_gene(published, capsys):
    cells = data.norman()
    assert list(cells.obs["perturbation"]) == ["control", "KLF1+SET", "KLF1", "KLF1+SET", "RP5_862P8.2"]
    assert list(cells.obs["nperts"]) == NUMBERS and list(cells.obs["control"]) == [True] + 4 * [False]
    assert list(cells.obs["batch"].cat.categories) == ["1", "2"] and list(cells.obs["guide"]) == OBS["guide_id"]
    assert (cells.obs["n_counts"] == published.sum(1)).all() and cells.X is None
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), published)
    assert "norman: 5 cells x 4 genes" in capsys.readouterr().out


def test_one_pair_and_the_controls_are_read_alone(published):
    cells = data.norman(["SET+KLF1"])
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), published[[0, 1, 3]])


def test_a_column_that_the_file_lacks_is_said_or_refused(lab_data, monkeypatch, capsys):
    scperturb_file(lab_data / FILE, LABELS, NUMBERS, guide_id=OBS["guide_id"])
    monkeypatch.setattr(norman, "CARD", hashed(norman.CARD, lab_data))
    assert "batch" not in data.norman().obs
    assert "the file has no 'gemgroup', and so no 'batch'; no 'celltype'" in capsys.readouterr().out
    cells = data.read(lab_data / FILE)
    for name in ("nperts", "perturbation"):
        del cells.obs[name]
        cells.write_h5ad(lab_data / FILE)
        monkeypatch.setattr(norman, "CARD", hashed(norman.CARD, lab_data))
        with pytest.raises(Refused, match=f"obs has no column '{name}'"):
            data.norman()


@pytest.mark.parametrize("size", [0, 1000, None])
def test_a_truncated_and_another_file_are_refused_before_they_are_opened(lab_data, size):
    scperturb_file(lab_data / FILE, LABELS, NUMBERS)
    content = (lab_data / FILE).read_bytes()
    (lab_data / FILE).write_bytes(content[:size])
    with pytest.raises(
        Refused, match="md5 .* not the published c870e6967d91….*fetch https://zenodo.org/records/13350497"
    ):
        data.norman()


@pytest.mark.real
def test_norman_subset_has_eighteen_genes_fifteen_pairs_and_a_hundred_controls(capsys):
    cells = data.norman()
    assert "development subset" in capsys.readouterr().out and cells.shape == (3375, 500)
    number = cells.obs.drop_duplicates("perturbation")["nperts"].value_counts()
    assert number.to_dict() == {1: 18, 2: 15, 0: 1} and cells.obs["control"].sum() == 100
    share = (data.check_counts(cells) / cells.obs["n_counts"]).median()
    assert 0.005 < share < 0.02  # these genes hold one UMI in a hundred


@pytest.mark.real
def test_norman_the_one_target_among_these_genes_goes_up_ninefold():
    cells = data.norman()
    rate = cells.layers["counts"].multiply(1e4 / cells.obs["n_counts"].to_numpy()[:, None]).tocsr()
    assert set(cells.var_names) & set(cells.obs["perturbation"]) == {"TMSB4X"}
    level = rate[:, cells.var_names.get_loc("TMSB4X")].toarray().ravel()
    up, base = (level[(cells.obs["perturbation"] == name).to_numpy()].mean() for name in ("TMSB4X", "control"))
    assert 6 < up / base < 12
