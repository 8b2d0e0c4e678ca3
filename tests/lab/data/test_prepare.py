"""Preparation against scanpy, thinning against theorems."""

import itertools
import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse, stats

from lab import data
from lab.errors import Refused


def test_prepare_equals_the_scanpy_steps_one_by_one(raw):
    ours = data.prepare(raw(), 100, min_genes=100)
    theirs = raw()
    theirs.X = theirs.layers["counts"].astype(np.float32)
    theirs.var["mt"] = theirs.var_names.str.startswith("MT-")
    sc.pp.calculate_qc_metrics(theirs, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    theirs = theirs[(theirs.obs["n_genes_by_counts"] >= 100) & (theirs.obs["pct_counts_mt"] <= 20)].copy()
    sc.pp.filter_genes(theirs, min_cells=3)
    theirs.obs["size"] = theirs.obs["total_counts"]
    sc.experimental.pp.highly_variable_genes(theirs, n_top_genes=100, layer="counts")
    theirs.X = theirs.layers["counts"].multiply(1e4 / theirs.obs["size"].to_numpy()[:, None]).tocsr()
    sc.pp.log1p(theirs)
    theirs = theirs[:, theirs.var["highly_variable"]]
    assert list(ours.obs_names) == list(theirs.obs_names) and list(ours.var_names) == list(theirs.var_names)
    np.testing.assert_allclose(ours.X.toarray(), theirs.X.toarray(), rtol=1e-5)
    np.testing.assert_array_equal(ours.layers["counts"].toarray(), theirs.layers["counts"].toarray())


def test_prepare_drops_poor_and_dying_cells_and_says_how_many(raw):
    adata = raw()
    ours = data.prepare(adata, 100, min_genes=100)
    assert not set(adata.obs_names[:15]) & set(ours.obs_names) and ours.n_obs == 285
    common = int(((adata.layers["counts"].toarray()[15:] > 0).sum(0) >= 3).sum())
    assert ours.uns["prepare"] == {
        "cells": [300, 285],
        "genes": [400, common, 100],
        "min_genes": 100,
        "max_mito": 0.2,
        "min_cells": 3,
    }
    assert adata.X is None and "n_counts" not in adata.obs and adata.shape == (300, 400)  # the original is untouched
    assert (ours.obs["percent_mito"] <= 0.2).all() and (ours.obs["n_counts"] > data.check_counts(ours)).all()


def test_prepare_keeps_totals_that_know_genes_the_matrix_lost(cells):
    ours = data.prepare(cells, 300)
    np.testing.assert_array_equal(ours.obs["n_counts"], cells.obs["n_counts"])
    np.testing.assert_allclose(ours.X.toarray(), cells[:, ours.var_names].X.toarray(), rtol=1e-6)
    assert ours.shape == (700, 300) and "cell_type" in ours.obs


def test_held_out_cells_are_brought_to_the_training_genes(raw):
    train, test = data.split(raw(), seed=1)
    train = data.prepare(train, 100, min_genes=100)
    test = data.prepare(test, genes=train.var_names, min_genes=100)
    assert list(test.var_names) == list(train.var_names)
    with pytest.raises(Refused, match="1 of the 2 genes asked are absent.*'XYZ'"):
        data.prepare(raw(), genes=["G1", "XYZ"])


def test_prepare_refuses_what_is_not_counts_and_thresholds_that_leave_nothing(cells, raw):
    with pytest.raises(Refused, match="looks log-normalised"):
        data.prepare(cells, layer="X")
    with pytest.raises(Refused, match="no cell passes min_genes=10000"):
        data.prepare(raw(), min_genes=10_000)
    with pytest.raises(Refused, match="no gene passes"):
        data.prepare(raw(), min_genes=100, min_cells=1000)


def test_prepare_accepts_counts_in_x(raw):
    adata = raw()
    adata.X = adata.layers["counts"].astype(np.float32)
    del adata.layers["counts"]
    np.testing.assert_array_equal(
        data.prepare(adata, 100, layer="X", min_genes=100).X.toarray(),
        data.prepare(raw(), 100, min_genes=100).X.toarray(),
    )


def one_gene(counts):
    return ad.AnnData(layers={"counts": sparse.csr_matrix(counts[:, None], dtype=np.int32)})


def p_value(counts, distribution):
    """Chi-square of observed counts against a scipy distribution, tails pooled to expected counts of at least 10."""
    n, support = len(counts), np.arange(counts.max() + 2)
    expected = n * np.append(distribution.pmf(support[:-1]), distribution.sf(support[-2]))
    observed = np.bincount(counts, minlength=len(support)).astype(float)
    keep = expected >= 10
    expected, observed = (
        np.append(expected[keep], expected[~keep].sum()),
        np.append(observed[keep], observed[~keep].sum()),
    )
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


def test_thinned_poisson_is_poisson_and_independent_of_what_was_removed():
    counts = np.random.default_rng(0).poisson(8.0, 50_000)
    kept = data.thin(one_gene(counts), 0.3, seed=1).layers["counts"].toarray().ravel()
    assert p_value(kept, stats.poisson(2.4)) > 0.01 > p_value(kept, stats.poisson(2.5))
    removed = counts - kept
    assert abs(np.corrcoef(kept, removed)[0, 1]) < 3 / np.sqrt(50_000)
    table = np.histogram2d(kept.clip(0, 5), removed.clip(2, 9), bins=[np.arange(7), np.arange(2, 11)])[0]
    assert stats.chi2_contingency(table).pvalue > 0.01  # independence, not only no correlation


def test_thinned_negative_binomial_keeps_theta_but_not_independence():
    mean, theta, p = 10.0, 2.0, 0.4
    counts = np.random.default_rng(0).negative_binomial(theta, theta / (theta + mean), 50_000)
    kept = data.thin(one_gene(counts), p, seed=1).layers["counts"].toarray().ravel()
    assert (
        p_value(kept, stats.nbinom(theta, theta / (theta + p * mean)))
        > 0.01
        > p_value(kept, stats.nbinom(2.2, 2.2 / (2.2 + p * mean)))
    )
    covariance = np.cov(kept, counts - kept)[0, 1]
    assert covariance == pytest.approx(p * (1 - p) * mean**2 / theta, rel=0.05)


def test_thinning_scales_the_full_total_and_renormalises(cells):
    thinned = data.thin(cells, 0.25, seed=0)
    ratio = thinned.obs["n_counts"] / cells.obs["n_counts"]
    expected_sd = np.sqrt(0.25 * 0.75 / cells.obs["n_counts"]).mean()
    assert ratio.mean() == pytest.approx(0.25, abs=3 * expected_sd / np.sqrt(700)) and ratio.std() == pytest.approx(
        expected_sd, rel=0.15
    )
    assert (thinned.layers["counts"].toarray() <= cells.layers["counts"].toarray()).all()
    by_hand = np.log1p(thinned.layers["counts"].toarray() * 1e4 / thinned.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(thinned.X.toarray(), by_hand, rtol=1e-5)
    assert "n_genes" not in thinned.obs and "n_genes" in cells.obs
    np.testing.assert_array_equal(data.thin(cells, 1.0).layers["counts"].toarray(), cells.layers["counts"].toarray())


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_thinning_by_a_fraction_that_is_no_probability_is_refused(cells, fraction):
    with pytest.raises(Refused, match="probability of keeping a UMI"):
        data.thin(cells, fraction)


def test_zeros_that_are_stored_count_for_no_gene():
    """Three cells of two genes, the second stored and never counted."""
    stored = sparse.csr_matrix((np.array([5, 0] * 3), np.array([0, 1] * 3), np.array([0, 2, 4, 6])), shape=(3, 2))
    cells = ad.AnnData(layers={"counts": stored}, var={"name": ["seen", "never"]})
    cells.var_names = ["seen", "never"]
    with pytest.raises(Refused, match="no cell passes min_genes=2"):
        data.prepare(cells, min_genes=2, min_cells=3)
    ready = data.prepare(cells, min_genes=0, min_cells=3)
    assert ready.obs["n_genes"].tolist() == [1, 1, 1] and ready.var_names.tolist() == ["seen"]
    assert data.thin(cells, 1.0).X.nnz == 3 and cells.layers["counts"].nnz == 6  # what was given stays as it was


def test_a_gene_that_is_stored_twice_in_a_cell_is_one_gene():
    twice = sparse.csr_matrix((np.array([2, 3]), np.array([0, 0]), np.array([0, 2])), shape=(1, 2))
    ready = data.prepare(ad.AnnData(layers={"counts": twice}), min_genes=0, min_cells=0)
    assert ready.obs["n_genes"].tolist() == [1] and ready.layers["counts"].toarray().tolist() == [[5, 0]]


@pytest.mark.parametrize("name", ["n_counts", "n_genes", "percent_mito"])
@pytest.mark.parametrize("value", [np.nan, -1.0, "many", np.inf])
def test_a_measurement_that_a_cell_lacks_is_refused_until_it_is_deleted(name, value):
    """As an outer join of two tables leaves it."""
    cells = ad.AnnData(layers={"counts": np.full((4, 5), 2)})
    cells.obs[name] = [10.0, value, 10.0, 10.0] if name != "percent_mito" else [0.0, value, 0.0, 0.0]
    calls = [lambda: data.prepare(cells, min_genes=0, min_cells=0), lambda: data.thin(cells, 0.5)]
    for call in calls if name == "n_counts" else calls[:1]:
        with pytest.raises(Refused, match=f"obs.'{name}'. is missing or no number .* for [14] of 4 cells; fill it in"):
            call()
    del cells.obs[name]
    assert [call().n_obs for call in calls] == [4, 4]


KINDS = "uint8 int8 bool uint16 int64 uint64 float32 float64".split()


@pytest.mark.parametrize(
    "kind, form", [*itertools.product(KINDS, ["dense", "csr", "csc", "csr_array"]), ("float16", "dense")]
)
def test_counts_of_every_kind_are_prepared_thinned_and_served_alike(kind, form):
    counts = np.random.default_rng(0).poisson(1, (30, 8)).clip(0, 1 if kind == "bool" else 99)
    counts[:, 0] = 1
    make = {"dense": np.array, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "csr_array": sparse.csr_array}[form]
    want, cells = (ad.AnnData(layers={"counts": m}) for m in (counts.astype(np.int32), make(counts.astype(kind))))
    for change in (lambda a: data.prepare(a, 4, min_genes=1, min_cells=1), lambda a: data.thin(a, 0.5)):
        for attribute in (lambda a: a.X, lambda a: a.layers["counts"]):
            np.testing.assert_array_equal(attribute(change(cells)).toarray(), attribute(change(want)).toarray())
    np.testing.assert_array_equal(data.minibatch(cells)["x"], counts)
    data.assert_no_leakage(*data.split(ad.AnnData(layers={"counts": make(np.vander(range(9), 4).astype("int64"))})))


def test_sets_on_disk_are_prepared_thinned_and_split_as_in_memory(raw, tmp_path):
    cells = raw()
    cells.layers["dense"] = cells.layers["counts"].toarray()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    disk = data.read(tmp_path / "cells.h5ad", on_disk=True)
    for layer in ("counts", "dense"):
        one, other = (data.prepare(a, 50, layer=layer, min_genes=100) for a in (disk, cells))
        np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())
    np.testing.assert_array_equal(data.thin(disk, 0.5).X.toarray(), data.thin(cells, 0.5).X.toarray())
    for one, other in zip(data.split(disk), data.split(cells)):
        np.testing.assert_array_equal(one.layers["counts"].toarray(), other.layers["counts"].toarray())


def test_thinning_leaves_no_deeper_counts_behind():
    cells = ad.AnnData(np.full((6, 5), 10.0), layers={"counts": np.full((6, 5), 10)})
    cells.raw = cells
    assert data.thin(cells, 0.1).raw is None and cells.raw is not None


def test_choosing_genes_leaves_torch_its_threads():
    """numba, which ranks them, starts its own and would give torch as many."""
    program = """import torch
from lab import data
torch.set_num_threads(1)
data.prepare(data.bulk(60, 60), 20, min_genes=0, max_mito=1, min_cells=1)
print(torch.get_num_threads())"""
    env = os.environ | {"NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
    assert run.stdout.split()[-1] == "1"
