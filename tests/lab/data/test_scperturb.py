"""scPerturb: any of its files by name, its hash asked of the archive where none is known."""

import hashlib

import numpy as np
import pooch
import pytest
from published import scperturb_file

from lab import data
from lab.data import harmonised, public
from lab.errors import Refused

NAME = "AissaBenevolenskaya2021"  # no hash known
LABELS = ["control", "Erlotinib", "control", "X_Y", "X_Y_Z"]


def test_a_file_is_read_by_its_name_and_what_could_not_be_checked_is_said(lab_data, capsys):
    counts = scperturb_file(lab_data / f"{NAME}.h5ad", LABELS, [0, 1, 0, 2, 2], celltype="PC9", time=24.0)
    cells = data.scperturb(NAME)
    said = capsys.readouterr().out
    assert f'scperturb("{NAME}"): reading the published' in said and "was not checked" in said
    assert list(cells.obs["perturbation"]) == ["control", "Erlotinib", "control", "X+Y", "X_Y_Z"]
    assert list(cells.obs["nperts"]) == [0, 1, 0, 2, 1] and list(cells.obs["dose"]) == [0, 1, 0, 1, 1]
    assert list(cells.obs["cell_type"]) == ["PC9"] * 5 and "batch" not in cells.obs and (cells.obs["time"] == 24).all()
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)
    assert data.scperturb(f"{NAME}.h5ad", ["Erlotinib"]).n_obs == 3


@pytest.mark.parametrize(
    "doses, expected",
    [
        (["0", "5", "0", "1", "2"], [0, 5, 0, 1, 2]),
        (["a"] * 5, [0, 1, 0, 1, 1]),
        (["0", "5", "0", "0", "2"], [0, 1, 0, 1, 1]),  # a perturbation at dose 0 would be a control
    ],
)
def test_doses_are_taken_where_every_perturbed_cell_has_a_number(lab_data, doses, expected):
    scperturb_file(lab_data / f"{NAME}.h5ad", LABELS, [0, 1, 0, 2, 1], dose_value=doses, dose_unit="uM")
    cells = data.scperturb(NAME)
    assert list(cells.obs["dose"]) == expected and cells.uns["dose_unit"] == "uM"


def test_barcodes_and_genes_that_occur_twice_are_told_apart(lab_data):
    scperturb_file(lab_data / f"{NAME}.h5ad", LABELS, [0, 1, 0, 2, 1], names=["A", "B", "A", "C", "D"], symbols="XYXZ")
    cells = data.scperturb(NAME)
    assert list(cells.obs_names) == ["A", "B", "A-1", "C", "D"] and list(cells.var_names) == ["X", "Y", "X-1", "Z"]


def test_controls_of_another_name_are_named_and_none_is_an_error_that_shows_the_nearest(lab_data):
    scperturb_file(lab_data / f"{NAME}.h5ad", ["Ctrl_1", "A", "B", "A", "Ctrl_1"], [1] * 5)
    with pytest.raises(Refused, match="no cell is 'control' in obs\\['perturbation'\\]"):
        data.scperturb(NAME)
    assert data.scperturb(NAME, control="Ctrl_1").obs["control"].sum() == 2


@pytest.mark.parametrize(
    "name, near",
    [("NormanWeissman2019", "NormanWeissman2019_filtered"), ("sciplex3", "SrivatsanTrapnell2020_sciplex3")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(Refused, match=f"scPerturb has no '{name}'; the nearest of its 51: .*{near}"):
        data.scperturb(name)


def test_a_known_hash_is_checked(lab_data):
    scperturb_file(lab_data / "DatlingerBock2021.h5ad", LABELS, [0, 1, 0, 2, 1])
    with pytest.raises(Refused, match="md5 .*, not the published 5cfbcb4770e9…; it is truncated or another version"):
        data.scperturb("DatlingerBock2021")


@pytest.fixture
def zenodo(tmp_path, monkeypatch):
    """A Zenodo that has one file and states its hash; the rest is pooch's own."""
    scperturb_file(tmp_path / "there.h5ad", LABELS, [0, 1, 0, 2, 1])
    content = (tmp_path / "there.h5ad").read_bytes()
    stated = {f"{NAME}.h5ad": f"md5:{hashlib.md5(content).hexdigest()}"}
    asked = []

    def registry(self):
        asked.append(self.base_url)
        self.registry.update(stated)

    def get(self, url, output_file, pooch):
        with open(output_file, "wb") as file:
            file.write(content)

    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", registry)
    monkeypatch.setattr(pooch.DOIDownloader, "__call__", get)
    return stated, asked


def test_a_hash_that_is_not_known_is_asked_of_the_archive_once(zenodo, empty_cache, capsys):
    stated, asked = zenodo
    assert data.scperturb(NAME).n_obs == 5 and asked == [f"doi:{harmonised.DOI}/"]
    assert public.status(data.catalogue.find("scperturb").__globals__["CARD"]) == "not here"  # the other fifty
    assert (empty_cache / f"{NAME}.h5ad").is_file() and "downloading doi:10.5281" in capsys.readouterr().out
    asked.clear()
    assert data.scperturb(NAME).n_obs == 5 and asked == [] and "reading doi:10.5281" in capsys.readouterr().out


def test_a_download_that_differs_from_what_the_archive_states_is_refused(zenodo, empty_cache):
    zenodo[0][f"{NAME}.h5ad"] = "md5:" + "0" * 32
    with pytest.raises(Refused, match="no longer gives the published file \\(md5 differs\\)"):
        data.scperturb(NAME)
    assert not (empty_cache / f"{NAME}.h5ad").exists()


def test_a_file_that_the_archive_has_not_is_refused(zenodo):
    zenodo[0].clear()
    with pytest.raises(Refused, match="no longer gives the published file"):
        data.scperturb(NAME)


def test_names_and_hashes_are_written_as_zenodo_writes_them():
    assert list(harmonised.MD5) == sorted(harmonised.MD5, key=lambda name: name.replace("_arrayed", "~"))
    assert sum(map(bool, harmonised.MD5.values())) == 14  # as the page says
    for known in filter(None, harmonised.MD5.values()):
        assert len(known) == 32 and set(known) <= set("0123456789abcdef")
