"""Sums over groups of cells, without a copy of the cells."""

import numpy as np
import pandas as pd
from scipy import sparse

BLOCK = 4096  # cells that are summed at a time


def sums(x, of: np.ndarray, n: int) -> np.ndarray:
    """Sums (n, G) of the rows of x (B, G) with `of` (B,) equal to 0..n-1; others are -1."""
    total = np.zeros((n, x.shape[1]))
    for start in range(0, x.shape[0], BLOCK):  # in single precision, so not too many at a time
        block, of_block = _rows(x, start, start + BLOCK), of[start : start + BLOCK]
        rows = np.flatnonzero(of_block >= 0)
        ones = (np.ones(len(rows), np.float32), (of_block[rows], rows))
        part = sparse.csr_matrix(ones, shape=(n, block.shape[0])) @ block
        total += part.toarray() if sparse.issparse(part) else part
    return total


def _rows(x, start: int, stop: int):
    """x[start:stop] without a copy of what a CSR matrix holds."""
    if not sparse.issparse(x):
        return x[start:stop]
    bounds = x.indptr[start : stop + 1]
    held = slice(bounds[0], bounds[-1])
    return sparse.csr_matrix((x.data[held], x.indices[held], bounds - bounds[0]), (len(bounds) - 1, x.shape[1]))


def halved(of: np.ndarray, n: int, random) -> np.ndarray:
    """0 or 1 (B,): each group of `of` in two halves at random."""
    order = random.permutation(np.flatnonzero(of >= 0))
    order = order[np.argsort(of[order], kind="stable")]
    size = np.bincount(of[order], minlength=n)
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    which = np.zeros(len(of), int)
    which[order] = place < np.repeat(size // 2, size)
    return which


def squared(x):
    """Element by element."""
    return sparse.csr_matrix((x.data**2, x.indices, x.indptr), x.shape) if sparse.issparse(x) else x * x


def means_of(x, of: np.ndarray, names: list[str]) -> np.ndarray:
    """Means (N, G) of the rows of x that are of each name."""
    code = pd.Index(names).get_indexer(of)
    return sums(x, code, len(names)) / np.bincount(code[code >= 0], minlength=len(names))[:, None]
