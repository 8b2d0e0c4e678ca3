"""sci-Plex 3: scPerturb's file in miniature."""

import numpy as np
import pytest
from miniature import hashed
from published import scperturb_file

from lab import data
from lab.data.catalogue import sciplex
from lab.errors import Refused

FILE = "SrivatsanTrapnell2020_sciplex3.h5ad"
LABELS = ["control", "(+)-JQ1", None, "Dacinostat (LAQ824)", "(+)-JQ1"]
OBS = {
    "dose_value": [0.0, 10.0, np.nan, 10000.0, 1000.0],
    "dose_unit": "nM",
    "time": [24.0, 24.0, np.nan, 72.0, 24.0],
    "cell_line": ["A549", "K562", "K562", "A549", "MCF7"],
    "replicate": ["rep1", "rep2", None, "rep1", "rep2"],
}


def test_doses_lines_and_times_are_kept_and_nuclei_without_a_drug_left_out(lab_data, monkeypatch, capsys):
    counts = scperturb_file(lab_data / FILE, LABELS, [0, 1, 0, 1, 1], **OBS)
    monkeypatch.setattr(sciplex, "CARD", hashed(sciplex.CARD, lab_data))
    cells = data.sciplex()
    assert "1 of 5 cells have no label" in capsys.readouterr().out
    assert list(cells.obs["perturbation"]) == ["control", "(plus)-JQ1", "Dacinostat (LAQ824)", "(plus)-JQ1"]
    assert list(cells.obs["dose"]) == [0, 10, 10000, 1000] and cells.uns["dose_unit"] == "nM"
    assert list(cells.obs["nperts"]) == [0, 1, 1, 1] and list(cells.obs["time"]) == [24, 24, 72, 24]
    assert list(cells.obs["cell_type"]) == ["A549", "K562", "A549", "MCF7"] and cells.obs["batch"].nunique() == 2
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts[[0, 1, 3, 4]])


def test_a_drug_without_a_dose_is_refused(lab_data, monkeypatch):
    scperturb_file(lab_data / FILE, LABELS, [0, 1, 0, 1, 1], **OBS | {"dose_value": [0.0, np.nan, np.nan, 1.0, 1.0]})
    monkeypatch.setattr(sciplex, "CARD", hashed(sciplex.CARD, lab_data))
    with pytest.raises(Refused, match="obs\\['dose_value'\\] is no number for 1 perturbed cells"):
        data.sciplex()
