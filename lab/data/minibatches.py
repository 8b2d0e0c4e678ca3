"""From AnnData to minibatches: everything is checked once, then `loader` serves whole batches, or `minibatch` all."""

from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, Sampler

from lab.errors import Refused
from lab.nets import Minibatch

from .blocks import Blocks
from .counts import EXACT, check_counts, check_finite, labels, matrix_of

DENSE_BYTES = 1e9  # a matrix in memory below this is made dense once: a batch is then one index_select


def loader(
    adata: ad.AnnData,
    *obs: str,
    layer: str | None = "counts",
    size: int = 128,
    shuffle: bool = True,
    seed: int = 0,
    drop_last: bool = False,
    categories: dict[str, list] | None = None,
) -> DataLoader:
    """Minibatches of `adata` as dicts: `"x"` (B, G) float32; `"log_library"` (B, 1), the log of each cell's total over
    these genes, for count layers; and one entry per column named in `obs`: categories as int64 codes (B,), numbers as
    float32 (B,).

    `layer="X"` takes X for counts; `layer=None` takes X for any finite numbers, and gives no `log_library`. On-disk
    matrices (`read(path, on_disk=True)`, or anndata's backed mode) are read in blocks of neighbouring rows, of which
    128 MB stay in memory: of 3,000 genes, of which a cell has 400, 40,000 cells. A larger set is shuffled in parts: its
    blocks are shuffled, and then the cells of as many blocks as stay. Where cells are sorted, the variance of a
    minibatch's mean grows from s / B to at most s (1 / B + 1 / m) for m blocks, of which there are 128 or more.

    The order of an epoch is a function of (`seed`, epoch), and on disk of the file's chunks; epochs follow by
    themselves, and `loader.sampler.set_epoch(k)` says which comes next. `loader.dataset.categories` gives the codes'
    meaning; pass it as `categories` when loading held-out cells, so that both use one code and an unseen category is
    refused.
    """
    if size < 1:
        raise Refused(f"size={size}: a minibatch needs at least one cell")
    cells = Cells(adata, obs, layer, categories or {})
    return DataLoader(
        cells,
        size,
        sampler=Order(len(cells), shuffle, seed, cells.blocks),
        drop_last=drop_last,
        collate_fn=_as_is,
        generator=torch.Generator().manual_seed(seed),
    )  # its own: iterating leaves the global one alone


def minibatch(
    adata: ad.AnnData, *obs: str, layer: str | None = "counts", categories: dict[str, list] | None = None
) -> Minibatch:
    """All cells of `adata`, in their order, as the one minibatch that `loader` would make of them."""
    cells = Cells(adata, obs, layer, categories or {})
    return cells.__getitems__(list(range(len(cells))))


class Cells(Dataset):
    """Rows of one matrix and of some obs columns; a list of rows is fetched at once, in the order asked."""

    def __init__(self, adata: ad.AnnData, obs: tuple[str, ...], layer: str | None, categories: dict[str, list]):
        if taken := {"x", "log_library"}.intersection(obs):
            raise Refused(f"a minibatch has its own {min(taken)!r}; rename that obs column")
        self.matrix, self.blocks = matrix_of(adata, layer or "X"), None
        self.columns, self.categories = {}, {}
        for name in obs:
            self.columns[name], meaning = _encode(adata, name, categories.get(name))
            if meaning is not None:
                self.categories[name] = meaning
        if layer is None:
            check_finite(self.matrix, adata.n_obs)
        else:
            library = np.log(check_counts(adata, layer)).astype(np.float32)
            self.columns["log_library"] = torch.from_numpy(library)[:, None]
        if isinstance(self.matrix, np.ndarray) or (
            sparse.issparse(self.matrix) and 4 * self.matrix.shape[0] * self.matrix.shape[1] <= DENSE_BYTES
        ):
            if isinstance(self.matrix, np.ndarray):
                self.matrix = np.array(self.matrix, np.float32)  # a copy: scanpy normalises in place, after the check
            self.matrix = torch.from_numpy(_dense(self.matrix))
        elif sparse.issparse(self.matrix):
            self.matrix = sparse.csr_matrix(self.matrix, dtype=np.float32, copy=True)
        else:
            self.matrix = self.blocks = Blocks(self.matrix)
        self.n = adata.n_obs

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, rows: list[int]) -> Minibatch:
        index = torch.tensor(rows)
        return {"x": self._x(index)} | {name: column[index] for name, column in self.columns.items()}

    def __getitem__(self, row: int) -> Minibatch:
        return {name: value[0] for name, value in self.__getitems__([row]).items()}

    def _x(self, index: torch.Tensor) -> torch.Tensor:
        if isinstance(self.matrix, torch.Tensor):
            return self.matrix.index_select(0, index)
        if sparse.issparse(self.matrix):
            return torch.from_numpy(_dense(self.matrix[index.numpy()]))
        return self.matrix[index.numpy()]


class Order(Sampler):
    """All rows once, in an order that (`seed`, epoch) fixes, and on disk the blocks. Each pass begins the next epoch;
    `set_epoch` chooses it.
    """

    def __init__(self, n: int, shuffle: bool, seed: int, blocks: Blocks | None = None):
        self.n, self.shuffle, self.seed, self.blocks, self.epoch = n, shuffle, seed, blocks, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if not self.shuffle:
            return iter(range(self.n))
        random = np.random.default_rng([self.seed, epoch])
        return iter((self.blocks.shuffled(random) if self.blocks else random.permutation(self.n)).tolist())


def _as_is(batch):
    return batch


def _dense(rows) -> np.ndarray:
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    return np.ascontiguousarray(rows, dtype=np.float32)


def _encode(adata: ad.AnnData, name: str, known: list | None):
    """One obs column as a tensor (B,), and what its codes mean (None for numbers)."""
    values = labels(adata, name)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and known is None:
        numbers = values.to_numpy()
        if np.isinf(numbers).any():
            raise Refused(f"obs[{name!r}] holds infinite values; remove those cells, or leave that column out")
        if (lost := (abs(numbers) > EXACT) & (numbers == np.round(numbers))).any():
            raise Refused(
                f"obs[{name!r}] holds {numbers[lost][0]}, and whole numbers above {EXACT:,} are not exact in float32; "
                f"store labels as adata.obs[{name!r}].astype('category'), and pass a measurement as its logarithm"
            )
        return torch.from_numpy(numbers.astype(np.float32)), None
    if known is not None and (unseen := sorted(set(values.unique()) - set(known), key=str)):
        raise Refused(
            f"obs[{name!r}] holds {unseen[0]!r}, a category that was not there in training; remove those "
            "cells or retrain"
        )
    levels = known if known is not None else values.astype("category").cat.categories
    coded = pd.Categorical(values, levels)
    return torch.from_numpy(coded.codes.astype(np.int64)), list(coded.categories)
