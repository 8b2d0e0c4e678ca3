"""Cells on disk: in blocks, whole, in an order that seed and epoch fix, as random as theory says."""

import hashlib
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from scipy import sparse
from torch import nn

from lab import data
from lab.data import blocks
from lab.data.minibatches import Order
from lab.train import fit


def order(n, size=None, kept=None, seed=0):
    """The order of a file in blocks of `size` rows, of which `kept` stay; without a size, of cells in memory."""
    if size is None:
        return Order(n, True, seed)
    found = blocks.Blocks(SimpleNamespace(shape=(n, 1), chunks=None))
    found.size, found.kept = size, kept
    return Order(n, True, seed, found)


@pytest.fixture
def little(monkeypatch):
    """A buffer of four blocks of a few cells."""
    monkeypatch.setattr(blocks, "FEWEST", 4)
    monkeypatch.setattr(blocks, "BUFFER_BYTES", 3e4)


def on_disk(cells, folder, form="csr"):
    cells = cells.copy()
    cells.obs["row"] = np.arange(len(cells))
    if form == "dense":
        cells.layers["counts"] = cells.layers["counts"].toarray()
    cells.write_h5ad(folder / "cells.h5ad", compression="gzip")
    return data.read(folder / "cells.h5ad", on_disk=True)


@pytest.mark.parametrize(
    "n, size, kept", [(1000, 10, 7), (997, 10, 7), (71, 10, 7), (70, 10, 7), (9, 10, 7), (1, 9, 7)]
)
def test_every_row_comes_once_in_an_order_that_seed_and_epoch_fix(n, size, kept):
    ours = order(n, size, kept)
    epochs = [list(ours) for _ in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    ours.set_epoch(1)
    assert list(ours) == epochs[1] and list(order(n, size, kept)) == epochs[0]
    assert n == 1 or len({tuple(epoch) for epoch in [*epochs, order(n, size, kept, seed=1)]}) == 4


def test_rows_are_shuffled_within_shares_of_blocks_that_fit_into_memory():
    rows, shares = np.array(list(order(1000, 10, 7))), 15  # of 100 blocks, 6 or 7 each
    parts = np.split(rows, np.cumsum([70] * 10 + [60] * 5)[:-1])
    assert len(parts) == shares and all(len(set(part // 10)) * 10 == len(part) for part in parts)
    assert all(len(set(part[:10] // 10)) > 2 for part in parts), "blocks of one share are mixed"


@pytest.mark.parametrize("n", [1, 70])
def test_a_file_that_fits_into_memory_has_the_order_of_cells_in_memory(n):
    assert list(order(n, 10, 7, seed=3)) == list(order(n, seed=3))


def test_the_order_in_memory_is_the_one_of_every_shipped_table(cells):
    cells = cells.copy()
    cells.obs["row"] = np.arange(700)
    loader = data.loader(cells, "row", seed=5)
    rows = [b["row"].int().tolist() for _ in range(3) for b in loader]
    assert hashlib.sha256(str(rows).encode()).hexdigest()[:16] == "a6b05272f914397a"


@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_is_served_is_what_stands_in_memory(cells, form, shuffle, little, tmp_path):
    loader = data.loader(on_disk(cells, tmp_path, form), "row", "cell_type", size=64, shuffle=shuffle)
    held = loader.dataset.blocks
    assert held.size * held.kept < 200
    whole = data.minibatch(cells, "cell_type")
    for _ in range(2):
        seen = []
        for b in loader:
            seen += (rows := b.pop("row").long()).tolist()
            torch.testing.assert_close(b, {name: value[rows] for name, value in whole.items()}, rtol=0, atol=0)
            assert len(held.held) <= held.kept
        assert sorted(seen) == list(range(700)) and (seen == sorted(seen)) != shuffle
    assert loader.dataset.categories == data.loader(cells, "cell_type").dataset.categories


def test_what_is_stored_twice_is_added_and_what_is_not_float_is_cast(little, tmp_path):
    counts = sparse.csr_matrix((np.array([1, 2, 3, 4]), np.array([1, 1, 0, 2]), np.array([0, 2, 2, 4])), shape=(3, 3))
    ad.AnnData(counts).write_h5ad(tmp_path / "cells.h5ad")
    b = data.minibatch(data.read(tmp_path / "cells.h5ad", on_disk=True), layer=None)
    assert b["x"].dtype == torch.float32 and b["x"].tolist() == [[0, 3, 0], [0, 0, 0], [3, 0, 4]]


@pytest.mark.parametrize("form", ["csr", "dense"])
def test_a_shuffled_epoch_reads_each_block_about_once(cells, form, little, tmp_path, monkeypatch):
    read, real = [], blocks.Blocks._read
    monkeypatch.setattr(blocks.Blocks, "_read", lambda self, block: read.append(block) or real(self, block))
    loader = data.loader(on_disk(cells, tmp_path, form), size=8)
    for _ in loader:
        pass
    count = -(-700 // loader.dataset.blocks.size)
    assert set(read) == set(range(count)) and len(read) < 1.3 * count, "minibatches in two shares may need one again"


def test_a_block_is_some_chunks_and_the_buffer_is_so_many_bytes(tmp_path):
    counts = sparse.random(40_000, 50, 0.5, "csr", np.float32, random_state=0)
    cells = ad.AnnData(layers={"counts": counts, "dense": counts.toarray()})
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    layers = data.read(tmp_path / "cells.h5ad", on_disk=True).layers
    chunk = layers["counts"].group["data"].chunks[0]
    for name, size, row in (("counts", 3 * chunk / 25, 200), ("dense", 3 * layers["dense"].chunks[0], 200)):
        found = blocks.Blocks(layers[name])
        assert found.size == pytest.approx(min(size, blocks.BUFFER_BYTES / blocks.FEWEST / row), abs=1)
        assert found.size * found.kept * row == pytest.approx(blocks.BUFFER_BYTES, rel=0.05)


def test_a_run_on_disk_resumes_to_the_bit(cells, little, tmp_path):
    def run(n, folder):
        torch.manual_seed(0)
        model = nn.Linear(765, 1)
        loss = lambda b: {"loss": (model(b["x"].log1p()) - b["log_library"]).square().mean()}
        rows = fit(model, loss, data.loader(on_disk(cells, tmp_path), size=64, seed=2), n=n, checkpoint=folder, every=5)
        return rows["loss"].tolist(), model.weight

    half, _ = run(15, tmp_path / "two")  # 11 minibatches an epoch
    (rows, weight), (expected, wanted) = run(29, tmp_path / "two"), run(29, tmp_path / "one")
    assert half == expected[:15] and rows == expected and torch.equal(weight, wanted)


def test_two_processes_share_each_minibatch_between_them(cells, little, tmp_path):
    loader = data.loader(on_disk(cells[:640], tmp_path), size=128)
    whole, halves = list(loader.batch_sampler), []
    for rank in range(2):
        loader.sampler.set_epoch(0)
        halves.append([list(rows) for rows in BatchSamplerShard(loader.batch_sampler, 2, rank, split_batches=True)])
    assert [a + b for a, b in zip(*halves)] == whole and sorted(sum(whole, [])) == list(range(640))


N, TYPES, SIZE, KEPT, B = 20_000, 10, 20, 125, 100  # eight shares of 125 blocks: 25 minibatches from each


def means(values, ours, epochs=100):
    """Of the minibatches of some epochs (minibatches, features), for values (n, features) of the cells."""
    return np.concatenate([values[list(ours)].reshape(N // B, B, -1).mean(1) for _ in range(epochs)])


def variance(minibatches, values):
    return ((minibatches - values.mean(0)) ** 2).mean(0).sum()


def test_on_sorted_cells_the_shares_of_types_in_a_minibatch_spread_as_theory_says():
    """What stays in memory is m of M blocks: its share of a type varies by v p (1 - p), v = (M - m) / (m (M - 1)),
    and a minibatch is B of its m b cells. Together (v + (1 - v) (m b - B) / (m b - 1) / B) p (1 - p), which is below
    (1 / B + 1 / m) p (1 - p); in a full shuffle (n - B) / (n - 1) / B.
    """
    types = np.eye(TYPES)[np.arange(N) * TYPES // N]
    m, many = KEPT, N // SIZE
    v = (many - m) / (m * (many - 1))
    theory = v + (1 - v) * (m * SIZE - B) / (m * SIZE - 1) / B
    blocked, full = (means(types, ours) for ours in (order(N, SIZE, KEPT), order(N)))
    both = [variance(of, types) / (TYPES * 0.1 * 0.9) for of in (blocked, full)]
    assert both == pytest.approx([theory, (N - B) / (N - 1) / B], rel=0.05) and theory < 1 / B + 1 / m
    assert both[0] > 1.5 * both[1], "what it costs is seen, or nothing is tested"
    np.testing.assert_allclose([blocked.mean(0), full.mean(0)], 0.1, rtol=1e-9)


@pytest.mark.parametrize("arranged", ["sorted", "mixed"])
def test_gradients_of_minibatches_deviate_within_the_bound_and_in_mixed_cells_no_more_than_fully_shuffled(arranged):
    random = np.random.default_rng(1)
    x = random.normal(size=(TYPES, 4))[np.arange(N) * TYPES // N] + 0.5 * random.normal(size=(N, 4))
    y = x @ random.normal(size=4) + 0.3 * random.normal(size=N)
    gradients = 2 * (x @ np.ones(4) - y)[:, None] * x  # of a squared error, at weights of one
    if arranged == "mixed":
        gradients = random.permutation(gradients)
    s = gradients.var(0).sum()
    blocked, full = (variance(means(gradients, ours, 50), gradients) for ours in (order(N, SIZE, KEPT), order(N)))
    assert full == pytest.approx(s / B, rel=0.05)
    assert blocked < s * (1 / B + 1 / KEPT)
    assert (blocked < 1.05 * full) == (arranged == "mixed")
