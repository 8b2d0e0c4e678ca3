"""Guo 2010: destiny's table in miniature, its recycled subtraction undone, and the same table as CSV."""

import numpy as np
import pytest
from miniature import hashed
from rdata import environment, integers, objects, reals, s4, saved, strings

from lab import data
from lab.data.catalogue import guo
from lab.errors import Refused

GENES, CELLS = ["Actb", "Nanog", "Gapdh", "Sox2"], ["2C 1.1", "2C 1.2", "4C 1.1", "64C 12.10", "4C 2.3"]
CYCLES = np.array(  # cells x genes; each number that is subtracted meets a gene that was not detected
    [[14, 28, 16, 20.5], [15, 21, 17, 28], [13, 28, 13, 28], [16, 28, 18, 28], [14.5, 28, 15.5, 19]]
)


def normalised_as_there(cycles, housekeeping=(0, 2)):
    """R's `exprs(x) - colMeans(exprs(x)[housekeepers, ])`: genes x cells minus a number a cell, recycled by columns."""
    own = cycles[:, list(housekeeping)].mean(1)
    return (cycles.ravel() - np.resize(own, cycles.size)).reshape(cycles.shape)


@pytest.fixture
def table(lab_data, monkeypatch):
    """destiny's ExpressionSet, cut to what is read."""

    def write(names=CELLS, factor=False):
        exprs = reals(
            *normalised_as_there(CYCLES).ravel(),  # genes x cells by columns is cells x genes by rows
            dim=integers(len(GENES), len(CELLS)),
            dimnames=objects(strings(*GENES), strings(*map(str, range(10, 15)))),
        )
        cell = integers(*range(1, 6), levels=strings(*names)) if factor else strings(*names)
        about = objects(cell, integers(2, 2, 4, 64, 4), names=strings("Cell", "num_cells"))
        found = s4(assayData=environment(exprs=exprs), phenoData=s4(data=about))
        saved(lab_data / "guo_norm.rda", guo_norm=found)
        monkeypatch.setattr(guo, "CARD", hashed(guo.CARD, lab_data))

    return write


@pytest.mark.parametrize("factor", [False, True])
def test_cycles_are_those_before_the_subtraction_and_relative_ones_each_cells_own(table, factor):
    table(factor=factor)
    cells = data.guo()
    np.testing.assert_allclose(cells.X, 28 - CYCLES, atol=1e-5)
    own = CYCLES[:, [0, 2]].mean(1, keepdims=True)
    np.testing.assert_allclose(cells.layers["relative"], own - CYCLES, atol=1e-5)
    assert not np.allclose(cells.layers["relative"], -normalised_as_there(CYCLES), atol=0.5)
    assert list(cells.var_names) == GENES and list(cells.obs_names) == CELLS
    assert list(cells.obs["stage"]) == ["2C", "2C", "4C", "64C", "4C"] and list(cells.obs["time"]) == [1, 1, 2, 6, 2]
    assert list(cells.obs["batch"]) == ["2C embryo 1"] * 2 + ["4C embryo 1", "64C embryo 12", "4C embryo 2"]


def test_no_counts_are_found_in_it(table):
    table()
    cells = data.guo()
    assert "counts" not in cells.layers and cells.uns["unit"] == "28 - Ct, log2"
    with pytest.raises(Refused, match="there is no layer 'counts'"):
        data.loader(cells)
    with pytest.raises(Refused, match="fractions"):
        data.check_counts(cells, "X")
    assert next(iter(data.loader(cells, "time", layer=None, size=5)))["x"].shape == (5, 4)


def test_a_table_with_other_names_is_refused(table):
    table(names=["2C 1.1", "2C 1.2", "4C", "64C 12.10", "4C 2.3"])
    with pytest.raises(Refused, match="names a cell otherwise than '16C 1.10'"):
        data.guo()


def test_a_table_normalised_otherwise_is_refused_rather_than_undone(table, monkeypatch):
    monkeypatch.setitem(globals(), "normalised_as_there", lambda cycles: cycles - cycles[:, [0, 2]].mean(1)[:, None])
    table()
    with pytest.raises(Refused, match="normalised otherwise than the published table"):
        data.guo()


def test_a_file_of_another_hash_is_refused(table, lab_data):
    table()
    (lab_data / "guo_norm.rda").write_bytes((lab_data / "guo_norm.rda").read_bytes()[:-20])
    with pytest.raises(Refused, match="truncated or another version"):
        data.guo()


@pytest.mark.real
def test_guo_has_every_stage_and_the_limit_of_detection_is_one_number():
    cells = data.guo()
    assert cells.shape == (428, 48) and cells.obs["batch"].nunique() == 42
    assert cells.obs["stage"].value_counts(sort=False).tolist() == [19, 23, 43, 75, 109, 159]
    assert cells.X.min() == 0 and 0.24 < (cells.X == 0).mean() < 0.26 and cells.X.max() < 18


@pytest.mark.real
def test_guo_markers_of_one_lineage_agree_more_than_in_the_published_normalisation():
    """Epiblast and primitive endoderm in blastocysts; undoing what was recycled tells a signal from an added noise."""
    cells = data.guo()
    late = (cells.obs["stage"] == "64C").to_numpy()
    here = cells.layers["relative"][late]
    there = -normalised_as_there(28 - cells.X, cells.var_names.get_indexer(["Actb", "Gapdh"]))[late]
    for a, b, least in (("Sox2", "Fgf4", 0.8), ("Gata4", "Pdgfra", 0.95), ("Sox2", "Nanog", 0.7)):
        i, j = cells.var_names.get_indexer([a, b])
        assert np.corrcoef(here[:, i], here[:, j])[0, 1] > least > np.corrcoef(there[:, i], there[:, j])[0, 1]
