"""What is no counts, and a column that is not there, is refused in one sentence: cause and remedy."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from lab import data
from lab.errors import Refused


def put(value, where=(3, 2)):
    return lambda adata: adata.layers["counts"].__setitem__(where, value)


BAD = {
    "NaN": (put(np.nan), "NaN or infinite"),
    "infinite": (put(np.inf), "NaN or infinite"),
    "negative": (put(-1.0), "negative"),
    "fraction": (lambda adata: adata.layers["counts"].__imul__(100.5), "fractions.*normalised"),
    "log-normalised": (lambda adata: np.log1p(adata.layers["counts"], out=adata.layers["counts"]), "log-normalised"),
    "an empty cell": (put(0, 4), "1 of 20 cells have no count"),
    "duplicate genes": (lambda adata: setattr(adata, "var_names", list("ABBCDE")), "'B' occurs more than once"),
    "missing layer": (lambda adata: adata.layers.pop("counts"), "no layer 'counts'"),
    "no genes": (lambda adata: adata[:, []].copy(), "no genes"),
    "no cells": (lambda adata: adata[[]].copy(), "no cells"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_counts_are_refused_in_one_sentence(small, name):
    change, message = BAD[name]
    changed = change(small)
    adata = changed if isinstance(changed, ad.AnnData) else small
    with pytest.raises(Refused, match=message) as caught:
        data.check_counts(adata)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    with pytest.raises(Refused, match=message):
        data.loader(adata)
    if name not in ("duplicate genes", "no cells", "no genes", "missing layer"):
        adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"])
        with pytest.raises(Refused, match=message):
            data.loader(adata)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_halves_hold_counts_up_to_2048_and_are_refused_above_where_they_round(kind):
    """2,049 written as float16 is 2,048, and nothing in the file says so; 2,050 shows that the range was left."""
    for largest, good in ((2048, True), (2050, False)):
        x = np.array([[largest, 1], [3, 1]], np.float16)
        cells = ad.AnnData(obs={"i": [0, 1]}, var={"i": [0, 1]}, layers={"counts": x})
        if good:
            np.testing.assert_array_equal(data.check_counts(cells), [2049, 4])
            continue
        with pytest.raises(Refused, match="2050 in float16.*int32 or float32"):
            data.check_counts(cells)
        cells.layers["counts"] = kind(x.astype(np.float32))
        np.testing.assert_array_equal(data.check_counts(cells), [2051, 4])


def test_a_column_is_returned_or_refused_with_the_names_of_those_that_are_there(small):
    assert data.column(small, "cell_type").tolist() == ["a", "b"] * 10
    with pytest.raises(Refused, match="^obs has no column 'donor'; it has: cell_type$"):
        data.column(small, "donor")
    with pytest.raises(Refused, match="it has: none$"):
        data.column(ad.AnnData(np.ones((2, 2))), "donor")


def test_counts_that_stand_only_in_raw_are_pointed_at_and_found_there(small):
    counts = small.layers["counts"]
    cells = ad.AnnData(counts, obs=small.obs)
    cells.raw = cells
    cells.X = np.log1p(counts)
    for layer, message in (("counts", "no layer 'counts'"), ("X", "looks log-normalised")):
        for call in (data.check_counts, data.loader, data.prepare):
            with pytest.raises(Refused, match=f"{message}.*take adata.raw.to_adata.., and its X$"):
                call(cells, layer=layer)
    np.testing.assert_array_equal(data.check_counts(cells.raw.to_adata(), layer="X"), counts.sum(1))
    cells.raw = cells  # logarithms, as scanpy's tutorials keep them
    with pytest.raises(Refused, match="use raw integer counts$"):
        data.check_counts(cells, layer="X")


def test_counts_stored_by_gene_on_disk_are_refused_until_one_of_the_two_things_said_is_done(small, tmp_path):
    small.layers["counts"] = sparse.csc_matrix(small.layers["counts"])
    small.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(Refused, match="read it without on_disk, or write it anew after .tocsr"):
        data.check_counts(data.read(tmp_path / "cells.h5ad", on_disk=True))
    cells = data.read(tmp_path / "cells.h5ad")
    before = data.check_counts(cells)
    cells.layers["counts"] = cells.layers["counts"].tocsr()
    cells.write_h5ad(tmp_path / "anew.h5ad")
    np.testing.assert_array_equal(data.check_counts(data.read(tmp_path / "anew.h5ad", on_disk=True)), before)
