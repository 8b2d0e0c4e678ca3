"""Minibatches: whole, reproducible, the same from memory and from disk; bad requests refused in one sentence."""

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from scipy import sparse

from lab import data
from lab.errors import Refused


def batches(loader):
    return [{name: value.clone() for name, value in b.items()} for b in loader]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_minibatch_has_the_promised_entries_shapes_and_types(cells):
    b = next(iter(data.loader(cells, "cell_type", "percent_mito", size=32)))
    assert {name: (tuple(v.shape), v.dtype) for name, v in b.items()} == {
        "x": ((32, 765), torch.float32),
        "log_library": ((32, 1), torch.float32),
        "cell_type": ((32,), torch.int64),
        "percent_mito": ((32,), torch.float32),
    }
    torch.testing.assert_close(b["log_library"], b["x"].sum(1, keepdim=True).log())


def test_unshuffled_rows_come_in_order_with_their_own_labels(cells):
    b = batches(data.loader(cells, "cell_type", shuffle=False, size=300))
    np.testing.assert_array_equal(torch.cat([c["x"] for c in b]).numpy(), cells.layers["counts"].toarray())
    np.testing.assert_array_equal(torch.cat([c["cell_type"] for c in b]).numpy(), cells.obs["cell_type"].cat.codes)
    assert [len(c["x"]) for c in b] == [300, 300, 100]


def test_all_cells_at_once_are_the_loaders_in_order_with_the_same_codes(cells):
    known = {"cell_type": sorted(cells.obs["cell_type"].unique(), reverse=True)}
    whole = data.minibatch(cells, "cell_type", "percent_mito", categories=known)
    parts = batches(data.loader(cells, "cell_type", "percent_mito", size=300, shuffle=False, categories=known))
    same(whole.values(), [torch.cat([b[name] for b in parts]) for name in whole])
    assert set(data.minibatch(cells, layer=None)) == {"x"}


def test_every_epoch_visits_every_cell_once_in_a_new_order(cells):
    cells = cells.copy()
    cells.obs["row"] = np.arange(700)
    loader = data.loader(cells, "row", size=64)
    epochs = [torch.cat([b["row"] for b in loader]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(700)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_seed_and_epoch_and_can_be_resumed(cells):
    first = data.loader(cells, seed=7)
    skipped, wanted = batches(first), batches(first)
    again = data.loader(cells, seed=7)
    again.sampler.set_epoch(1)
    same(batches(again), wanted)
    assert not torch.equal(batches(data.loader(cells, seed=8))[0]["x"], skipped[0]["x"])


def test_iterating_leaves_the_global_generators_alone(cells):
    numpy_state = lambda: np.random.get_state()[1].tolist()  # noqa: NPY002, the global state is what is asked about
    before = torch.get_rng_state(), numpy_state()
    batches(data.loader(cells))
    assert torch.equal(torch.get_rng_state(), before[0]) and numpy_state() == before[1]


def test_two_processes_share_each_batch_between_them(cells):
    cells = cells[:640].copy()
    cells.obs["row"] = np.arange(640)
    loader = data.loader(cells, "row", size=128)
    loader.sampler.set_epoch(0)
    whole = [b["row"].long().tolist() for b in loader]
    halves = []
    for rank in range(2):
        loader.sampler.set_epoch(0)
        halves.append([list(rows) for rows in BatchSamplerShard(loader.batch_sampler, 2, rank, split_batches=True)])
    assert [a + b for a, b in zip(*halves)] == whole


def test_accelerate_sets_the_epoch_of_our_order(cells):
    loader = data.loader(cells, size=100)
    shard = DataLoaderShard(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)
    shard.set_epoch(3)
    got = batches(shard)
    loader.sampler.set_epoch(3)
    same(got, batches(loader))


def test_drop_last_leaves_out_the_incomplete_batch(cells):
    loader = data.loader(cells, size=128, drop_last=True)
    assert len(loader) == 5 and {len(b["x"]) for b in loader} == {128}


def test_held_out_cells_are_coded_as_the_training_cells_were(cells):
    train, test = cells[cells.obs["cell_type"] != "B"].copy(), cells[cells.obs["cell_type"] == "NK"].copy()
    coding = data.loader(train, "cell_type").dataset.categories
    code = next(iter(data.loader(test, "cell_type", categories=coding)))["cell_type"].unique().item()
    assert coding["cell_type"][code] == "NK"
    with pytest.raises(Refused, match="'B'.*not there in training"):
        data.loader(cells, "cell_type", categories=coding)


@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("layer", ["counts", "X", None])
def test_a_set_on_disk_gives_the_same_minibatches_as_in_memory(cells, tmp_path, form, layer):
    adata = cells.copy()
    adata.X = adata.layers["counts"].astype(np.float32)
    if form == "dense":
        adata.X, adata.layers["counts"] = adata.X.toarray(), adata.layers["counts"].toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    on_disk = data.read(tmp_path / "cells.h5ad", on_disk=True)
    assert not isinstance(on_disk.layers["counts"], np.ndarray) and not sparse.issparse(on_disk.layers["counts"])
    expected, found = data.loader(adata, "cell_type", layer=layer), data.loader(on_disk, "cell_type", layer=layer)
    for _ in range(2):
        same(batches(expected), batches(found))


def test_anndatas_own_backed_mode_is_read_too(cells, tmp_path):
    adata = cells.copy()
    adata.X = adata.layers.pop("counts").astype(np.float32)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    same(
        batches(data.loader(sc.read_h5ad(tmp_path / "cells.h5ad", backed="r"), layer="X")),
        batches(data.loader(adata, layer="X")),
    )


def test_sparse_data_too_large_to_make_dense_gives_the_same_minibatches(cells, monkeypatch):
    dense = batches(data.loader(cells))
    monkeypatch.setattr("lab.data.minibatches.DENSE_BYTES", 1e5)
    loader = data.loader(cells)
    assert sparse.issparse(loader.dataset.matrix)
    same(batches(loader), dense)


def test_a_set_larger_than_memory_is_read_in_a_fraction_of_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.data.blocks.BUFFER_BYTES", 2e7)
    n, g, per_cell = 20_000, 20_000, 1_000
    indices = (np.arange(per_cell) * 20 + np.arange(n)[:, None] % 20).astype(np.int32).ravel()
    counts = sparse.csr_matrix(
        (np.ones(n * per_cell, np.float32), indices, np.arange(0, n * per_cell + 1, per_cell)), shape=(n, g)
    )
    ad.AnnData(layers={"counts": counts}).write_h5ad(tmp_path / "large.h5ad")
    in_file, dense = n * per_cell * 8, n * g * 4  # 160 MB and 1.6 GB

    def peak(on_disk):
        tracemalloc.start()
        loader = data.loader(data.read(tmp_path / "large.h5ad", on_disk=on_disk), size=64)
        for b, _ in zip(loader, range(20)):
            assert (b["x"].sum(1) == per_cell).all()
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(on_disk=True)[0] < 0.25 * in_file < in_file < peak(on_disk=False)[0] < dense


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(obs=["batch"]), "no column 'batch'; it has: cell_type"),
        (dict(size=0), "at least one cell"),
        (dict(layer=None), "X is empty"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(options, message, small):
    obs = options.pop("obs", [])
    with pytest.raises(Refused, match=message):
        data.loader(small, *obs, **options)


def test_what_is_served_stays_what_was_checked_when_scanpy_normalises_in_place(cells):
    cells = sc.AnnData(cells.layers["counts"].toarray().astype(np.float32))
    loader = data.loader(cells, layer="X", size=700, shuffle=False)
    before = next(iter(loader))["x"].clone()
    sc.pp.log1p(cells)
    torch.testing.assert_close(next(iter(loader))["x"], before, rtol=0, atol=0)


def test_what_is_served_stays_what_was_checked_also_of_a_matrix_too_large_to_make_dense(cells, monkeypatch):
    monkeypatch.setattr("lab.data.minibatches.DENSE_BYTES", 0)
    m = cells.layers["counts"].astype(np.float32)
    m.indices, m.data = m.indices[::-1].copy(), m.data[::-1].copy()  # rows from the end, so that sorting moves them
    m = sparse.csr_matrix((m.data, m.indices, m.indptr[-1] - m.indptr[::-1]), shape=m.shape)
    cells = sc.AnnData(m, obs=cells.obs[[]].assign(dose=np.ones(700, np.float32)))
    loader = data.loader(cells, "dose", layer="X", size=700, shuffle=False)
    before = {name: value.clone() for name, value in next(iter(loader)).items()}
    assert cells.X is m and not m.has_sorted_indices
    m.sort_indices()
    sc.pp.log1p(cells)
    cells.obs["dose"].array[:] = 3
    same([next(iter(loader))], [before])


def test_totals_of_short_floats_do_not_overflow():
    x = np.full((3, 2000), 50, np.float16)
    b = data.minibatch(sc.AnnData(np.zeros((3, 2000), np.float32), layers={"counts": x}))
    torch.testing.assert_close(b["log_library"].exp(), torch.full((3, 1), 1e5))


@pytest.mark.parametrize("name", ["x", "log_library"])
def test_a_column_with_the_name_of_an_entry_is_refused(cells, name):
    cells = cells.copy()
    cells.obs[name] = 1.0
    with pytest.raises(Refused, match="rename that obs column"):
        data.loader(cells, name)


def test_a_missing_label_is_refused(small):
    small.obs.loc[small.obs_names[0], "cell_type"] = np.nan
    with pytest.raises(Refused, match="missing for 1 of 20 cells"):
        data.loader(small, "cell_type")


@pytest.mark.parametrize("kind", ["int64", "Int64", "uint64", "float64"])
def test_whole_numbers_that_float32_would_merge_are_refused_until_they_are_labels_or_logarithms(small, kind):
    small.obs["plate"] = pd.array(20240101000 + np.arange(20), dtype=kind)
    with pytest.raises(Refused, match="obs.'plate'. holds 20240101000.*astype.'category'"):
        data.minibatch(small, "plate")
    small.obs["log"] = np.log(small.obs["plate"].astype(float))
    small.obs["plate"] = small.obs["plate"].astype("category")
    b = data.minibatch(small, "plate", "log")
    assert b["plate"].tolist() == list(range(20)) and b["log"].isfinite().all()
    small.obs["volume"] = np.full(20, 2.5e9 + 0.3)
    assert data.minibatch(small, "volume")["volume"][0].item() == np.float32(2.5e9)


def test_a_column_with_an_infinite_number_is_refused(small):
    small.obs["dose"] = [np.inf] + [1.0] * 19
    with pytest.raises(Refused, match="obs.'dose'. holds infinite values"):
        data.minibatch(small, "dose")
    assert data.minibatch(small[1:].copy(), "dose")["dose"].tolist() == [1.0] * 19


def test_x_with_nan_is_refused_also_where_it_is_not_counts(small):
    small.X = small.layers["counts"].copy()
    small.X[0, 0] = np.nan
    with pytest.raises(Refused, match="X holds NaN"):
        data.loader(small, layer=None)


def test_a_column_of_numbers_stays_numbers_and_text_becomes_codes(small):
    small.obs["dose"], small.obs["donor"], small.obs["treated"] = (
        np.linspace(0, 1, 20),
        ["d2", "d1"] * 10,
        [True, False] * 10,
    )
    loader = data.loader(small, "dose", "donor", "treated", size=20, shuffle=False)
    b = next(iter(loader))
    assert (
        b["dose"].dtype == torch.float32 and b["donor"].tolist()[:2] == [1, 0] and b["treated"].tolist()[:2] == [1, 0]
    )
    assert loader.dataset.categories == {"donor": ["d1", "d2"], "treated": [False, True]}
