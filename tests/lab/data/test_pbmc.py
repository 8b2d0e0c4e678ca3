"""The 700 embedded cells: the recovered counts are the counts."""

import numpy as np
import pytest
import scanpy as sc

from lab import data


def test_pbmc_counts_are_recovered_exactly(cells):
    bundled = sc.datasets.pbmc68k_reduced()
    lognorm, total = bundled.raw.X.toarray().astype(float), bundled.obs["n_counts"].to_numpy(float)[:, None]
    estimate, counts = np.expm1(lognorm) * total / 1e4, cells.layers["counts"].toarray()
    assert np.abs(estimate - counts).max() < 0.1
    assert np.abs(np.log1p(counts * 1e4 / total) - lognorm).max() < 1e-3
    assert counts.dtype == np.int32 and counts.max() == 259 and (counts == 0).mean() == pytest.approx(0.67, abs=0.005)
    assert np.median(counts.sum(1)) == 653


def test_pbmc_x_is_log1p_of_counts_per_ten_thousand_by_the_full_total(cells):
    by_scanpy = cells.copy()
    by_scanpy.X = cells.layers["counts"].astype(float)
    by_scanpy.X = by_scanpy.X.multiply(1e4 / cells.obs["n_counts"].to_numpy()[:, None]).tocsr()
    sc.pp.log1p(by_scanpy)
    np.testing.assert_allclose(cells.X.toarray(), by_scanpy.X.toarray(), rtol=1e-6)
    assert cells.X.dtype == np.float32


def test_pbmc_keeps_labels_gene_names_and_quality_columns(cells):
    bundled = sc.datasets.pbmc68k_reduced()
    assert (
        cells.shape == (700, 765) and list(cells.var_names) == list(bundled.raw.var_names) and cells.var_names.is_unique
    )
    assert list(cells.obs.columns) == ["cell_type", "n_counts", "n_genes", "percent_mito", "phase"]
    sizes = cells.obs["cell_type"].value_counts()
    assert sorted(sizes) == sorted(bundled.obs["bulk_labels"].value_counts()) and sizes["dendritic"] == 240
    is_monocyte = (bundled.obs["bulk_labels"] == "CD14+ Monocyte").to_numpy()
    assert ((cells.obs["cell_type"] == "CD14 monocyte").to_numpy() == is_monocyte).all()


def test_two_calls_give_two_sets(cells):
    other = data.pbmc()
    other.layers["counts"].data[:] = 0
    assert cells.layers["counts"].sum() > 0 and data.pbmc().layers["counts"].sum() == cells.layers["counts"].sum()
