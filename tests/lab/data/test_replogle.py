"""Replogle 2022: scPerturb's file in miniature; a file of 1.5 GB is not among the development sets."""

import numpy as np
import pytest
from miniature import hashed
from published import scperturb_file

from lab import data
from lab.data.catalogue import replogle
from lab.errors import Refused

FILE = "ReplogleWeissman2022_K562_essential.h5ad"


def test_replogle_is_stored_dense_and_read_a_part_at_a_time(lab_data, monkeypatch):
    labels = ["control", "POLR2A", "control", "RPL3", "POLR2A"]
    obs = {"guide_id": [*"abcde"], "batch": [5, 5, 6, 6, 7]}
    counts = scperturb_file(lab_data / FILE, labels, [0, 1, 0, 1, 1], dense=True, **obs)
    monkeypatch.setattr(replogle, "CARD", hashed(replogle.CARD, lab_data))
    cells = data.replogle()
    assert list(cells.obs["perturbation"]) == labels and list(cells.obs["batch"]) == ["5", "5", "6", "6", "7"]
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)
    np.testing.assert_array_equal(data.replogle(["RPL3"]).layers["counts"].toarray(), counts[[0, 2, 3]])


@pytest.mark.parametrize("call", [data.replogle, data.sciplex, data.norman, data.papalexi, data.guo])
def test_without_the_file_one_sentence_says_what_whence_where_to_and_what_instead(call, lab_data, monkeypatch):
    monkeypatch.setattr("pooch.retrieve", lambda url, *a, **k: (_ for _ in ()).throw(ConnectionError(url)))
    with pytest.raises(Refused) as caught:
        call()
    said = str(caught.value)
    for part in (f"{call.__name__}() needs ", "could not be downloaded from https://", "LAB_DATA", "or use "):
        assert part in said
    assert "\n" not in said and said.count(". ") == 0


def test_all_of_it_is_trained_on_from_the_disk(lab_data):
    labels = ["control", "POLR2A", "control", "RPL3", "POLR2A"]
    counts = scperturb_file(lab_data / FILE, labels, [0, 1, 0, 1, 1], dense=True)
    loader = data.loader(data.read(lab_data / FILE, on_disk=True), "perturbation", layer="X", shuffle=False)
    (batch,) = loader
    assert batch["x"].numpy().tolist() == counts.tolist()
    assert [loader.dataset.categories["perturbation"][code] for code in batch["perturbation"]] == labels
