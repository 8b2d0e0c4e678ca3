"""Where the counts are: one rule, and what it says where it cannot decide."""

import json
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
from command_line import QUICK, assert_same_results, lines, simulated, written
from scipy import sparse

from lab import data
from lab.command import cells as command_cells
from lab.command import main
from lab.command.cells import counts_of
from lab.errors import Refused


def holding(counts=None, raw=None, x=None):
    """Twenty cells; `raw` has two genes more than the rest."""
    cells = simulated(20, 12)
    all_genes = cells.layers["counts"].toarray()
    whole = ad.AnnData(all_genes if raw is None else raw(all_genes), cells.obs, cells.var)
    ours = all_genes[:, :10]
    layers = {} if counts is None else {"counts": counts(ours)}
    made = ad.AnnData(None if x is None else x(ours), cells.obs, cells.var[:10], layers=layers)
    if raw is not None:
        made.raw = whole
    return made


same, logged, half = (lambda m: m), (lambda m: np.log1p(m)), (lambda m: m.astype(np.float16))


def other(m):
    m = m.copy()
    m[3, 4] += 1
    return m


TAKEN = {  # what is where: the layer that is taken, and its number of genes
    "counts": (dict(counts=same), "counts", 10),
    "counts beside log-normalised X": (dict(counts=same, x=logged), "counts", 10),
    "counts beside the same in X": (dict(counts=same, x=same), "counts", 10),
    "counts beside log-normalised raw": (dict(counts=same, raw=logged, x=logged), "counts", 10),
    "X alone": (dict(x=same), "X", 10),
    "X beside log-normalised raw": (dict(x=same, raw=logged), "X", 10),
    "raw beside log-normalised X": (dict(raw=same, x=logged), "raw", 12),
    "raw beside the same in X": (dict(raw=same, x=same), "raw", 12),
    "X as floats": (dict(x=lambda m: m.astype(float)), "X", 10),
    "X as halves": (dict(x=half), "X", 10),
    "raw as halves beside the same in X": (dict(raw=half, x=same), "raw", 12),
    "counts as halves beside the same in X": (dict(counts=half, x=same), "counts", 10),
    "X sparse, by gene": (dict(x=sparse.csc_matrix), "X", 10),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_counts_are_taken_from_counts_else_integer_raw_else_integer_x(kind):
    where, layer, genes = TAKEN[kind]
    cells, taken = counts_of(holding(**where))
    assert taken == layer and cells.n_vars == genes
    b = data.minibatch(cells, layer=taken)
    np.testing.assert_array_equal(b["x"], simulated(20, 12).layers["counts"].toarray()[:, :genes])


@pytest.mark.parametrize(
    "where, words",
    [
        (dict(x=logged), "no layer 'counts', and X holds no integers; name the layer with raw counts, --layer NAME"),
        (dict(x=logged, raw=logged), "raw.X and X hold no integers"),
        (dict(x=lambda m: -m), "X holds no integers"),
        (dict(), "X holds no integers"),
        (dict(x=other, raw=same), "raw.X and X both hold integers, and differ"),
        (dict(counts=same, x=other), "--layer counts or --layer X"),
        (dict(counts=same, raw=other, x=logged), "--layer counts or --layer raw"),
    ],
)
def test_no_counts_and_two_that_disagree_are_refused_with_the_line_that_mends_it(where, words):
    with pytest.raises(Refused) as error:
        counts_of(holding(**where))
    assert words in str(error.value) and "--layer" in str(error.value) and "\n" not in str(error.value)


def test_two_that_disagree_are_shown_where_they_do():
    cells = holding(x=other, raw=same)
    with pytest.raises(Refused) as error:
        counts_of(cells)
    value = simulated(20, 12).layers["counts"][3, 4]
    assert f"{value} and {value + 1} of 'gene-4' in cell {cells.obs_names[3]!r}" in str(error.value)


@pytest.mark.parametrize("layer, genes", [("X", 10), ("raw", 12), ("counts", 10)])
def test_the_layer_that_is_named_is_taken_whatever_else_there_is(layer, genes):
    cells, taken = counts_of(holding(counts=other, raw=same, x=same), layer)
    assert taken == layer and cells.n_vars == genes


@pytest.mark.parametrize("layer", ["raw", "umi"])
def test_a_layer_that_is_named_and_missing_is_refused(layer):
    with pytest.raises(Refused, match=f"no .*{layer}.* \\(layers: counts\\)"):
        counts_of(holding(counts=same), layer)


@pytest.mark.parametrize("odd", ["A\nB", "A\n", "\rA"])
@pytest.mark.parametrize("where, layer", [(dict(counts=same), "counts"), (dict(raw=same, x=logged), "raw")])
def test_a_gene_name_that_would_be_two_lines_of_genes_txt_is_refused_before_training(odd, where, layer):
    cells = holding(**where)
    names = cells.raw.var if layer == "raw" else cells.var
    names.index = [odd, *names.index[1:]]
    with pytest.raises(Refused, match="line break.*rename it"):
        counts_of(cells)


def test_numbers_with_a_unit_are_no_counts():
    with pytest.raises(Refused, match="no counts but ink"):
        counts_of(data.digits())


@pytest.mark.parametrize("where, taken, genes", [(dict(x=same), "X", 10), (dict(raw=same, x=logged), "raw", 12)])
def test_a_run_prints_and_records_the_layer_it_took(where, taken, genes, tmp_path, capsys):
    holding(**where).write_h5ad(tmp_path / "cells.h5ad")
    assert main(lines(tmp_path / "cells.h5ad", tmp_path / "run", *QUICK)) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["layer"] == taken and record["cells"]["genes"] == genes
    assert f"counts from {command_cells.called(taken)}" in capsys.readouterr().out
    assert main(lines(tmp_path / "cells.h5ad", tmp_path / "run", *QUICK)) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("genes", ["all", "10"])
@pytest.mark.parametrize("place", ["counts", "X", "raw"])
def test_a_file_that_stays_on_disk_trains_the_model_that_one_in_memory_does(place, genes, tmp_path, monkeypatch):
    def move(cells):
        counts = cells.layers.pop("counts")
        if place == "counts":
            cells.layers["counts"] = counts
        elif place == "X":
            cells.X = counts.toarray()
        else:
            cells.raw = ad.AnnData(counts, cells.obs, cells.var)
            return ad.AnnData(np.log1p(counts.toarray()), cells.obs, cells.var, raw=cells.raw)

    path = written(tmp_path, move, n_cells=60, n_genes=30)
    assert main(lines(path, tmp_path / "memory", *QUICK, "--genes", genes)) == 0
    monkeypatch.setattr(command_cells, "IN_MEMORY", 0)
    monkeypatch.setattr(ad, "read_h5ad", None)  # nothing may read the whole file
    assert main(lines(path, tmp_path / "disk", *QUICK, "--genes", genes)) == 0
    monkeypatch.undo()
    assert_same_results(tmp_path / "memory", tmp_path / "disk")
    assert len((tmp_path / "disk" / "genes.txt").read_text().split()) == (30 if genes == "all" else 10)
    assert json.loads((tmp_path / "disk" / "run.json").read_text())["arguments"]["layer"] == place


@pytest.mark.parametrize("kind", "? b i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8".split())
def test_counts_of_every_numeric_dtype_train_the_model_that_integers_do(kind, tmp_path):
    def cast(dtype, dense):
        def change(cells):
            counts = np.minimum(cells.layers["counts"].toarray(), 1 if kind == "?" else 100).astype(dtype)
            cells.layers["counts"] = counts if dense else sparse.csr_matrix(counts)

        return change

    runs = {"integers": ("i4", True), "dense": (kind, True)} | ({"sparse": (kind, False)} if kind != "f2" else {})
    for name, how in runs.items():
        path = written(tmp_path, cast(*how), n_cells=60, n_genes=30)
        assert main(lines(path, tmp_path / name, *QUICK, "--genes", "10")) == 0
        assert_same_results(tmp_path / "integers", tmp_path / name)


@pytest.mark.parametrize("memory", [2e9, 0])
def test_a_file_from_before_anndata_0_7_trains_wherever_it_fits(memory, tmp_path, monkeypatch):
    shutil.copy(Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad", tmp_path / "old.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "r+") as file:
        file["X"][...] = np.random.default_rng(0).poisson(2, file["X"].shape)
    monkeypatch.setattr(command_cells, "IN_MEMORY", memory)
    assert main(lines(tmp_path / "old.h5ad", tmp_path / "run", *QUICK, "--layer", "X")) == 0
    assert "louvain" in ad.read_h5ad(tmp_path / "run" / "latent.h5ad").obs


def test_genes_are_put_in_the_order_asked_and_those_missing_are_zero():
    cells = simulated(5, 6)
    wanted = ["gene-4", "none", "gene-0"]
    chosen = command_cells.with_genes(cells, "counts", wanted)
    x = cells.layers["counts"].toarray()
    assert list(chosen.var_names) == wanted
    np.testing.assert_array_equal(chosen.layers["counts"].toarray(), np.stack([x[:, 4], 0 * x[:, 0], x[:, 0]], 1))
    assert pd.api.types.is_integer_dtype(chosen.layers["counts"].dtype)
