"""A matrix left on disk, read in blocks of neighbouring rows, of which a bounded number stay in memory.

A compressed file is unpacked chunk by chunk, so that one row costs as much as all that share its chunk. An epoch
therefore shuffles blocks of neighbours, and then the rows of many blocks together, as "block sampling and batched
fetching" does in scDataset (D'Ascenzo and Cultrera di Montesano 2025, arXiv:2506.01883). Reading need not be told which
rows follow: the blocks used last are kept, and any rows may be asked for.

What it costs in randomness: however the file is sorted, the mean over a minibatch of B cells of a quantity with
variance s among all cells has the expectation of a full shuffle, and a variance of at most s (1 / B + 1 / m) with m
blocks at a time, where a full shuffle has s / B. The 1 / m is there where the cells of a block are all alike, and not
where neighbours differ as much as any two cells.
"""

import numpy as np
import torch
from anndata.abc import CSRDataset
from scipy import sparse

BUFFER_BYTES = 128e6  # rows kept in memory, sparse where they are sparse in the file
CHUNKS = 3  # of the file in a block: one is unpacked in vain, as blocks end within chunks
FEWEST = 128  # blocks kept, however large the file's chunks
UNCHUNKED = 2**14  # numbers taken for a chunk where the file is in one piece


class Blocks:
    """The rows of a matrix (n, G) on disk, dense or CSR, as float32. A block is `size` rows, and `kept` blocks take
    `BUFFER_BYTES`; both follow from the shape and chunks of the file alone, as does the order that `shuffled` draws.
    """

    def __init__(self, matrix):
        self.matrix, (self.n, self.genes) = matrix, matrix.shape
        self.sparse = isinstance(matrix, CSRDataset)
        if self.sparse:
            self.parts = matrix.group["data"], matrix.group["indices"]
            self.ends = matrix.group["indptr"][:].astype(np.int64)
            numbers = max(self.ends[-1] / self.n, 1)  # a row's
            chunk = max((part.chunks or [UNCHUNKED])[0] for part in self.parts) / numbers
        else:
            numbers = self.genes
            chunk = matrix.chunks[0] if matrix.chunks else UNCHUNKED / numbers
        row = numbers * (8 if self.sparse else 4)  # bytes
        self.size = max(1, int(min(CHUNKS * chunk, BUFFER_BYTES / FEWEST / row)))
        self.kept = max(FEWEST, int(BUFFER_BYTES / (self.size * row)))
        self.held = {}  # block -> its rows; the one used last is last

    def shuffled(self, random: np.random.Generator) -> np.ndarray:
        """All rows (n,): the blocks are dealt into equal shares of at most `kept`, then each share's rows shuffled."""
        count = -(-self.n // self.size)
        if count <= self.kept:
            return random.permutation(self.n)  # as in memory
        rows = np.arange(count * self.size).reshape(count, self.size)
        shares = np.array_split(random.permutation(rows), -(-count // self.kept))
        return np.concatenate([random.permutation(share[share < self.n]) for share in shares])

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        """These rows (B, G), dense, in the order asked."""
        blocks, places = np.divmod(rows, self.size)
        used = {block: self.held.pop(block, None) or self._read(block) for block in np.unique(blocks).tolist()}
        self.held |= used
        for block in list(self.held)[: -self.kept]:
            del self.held[block]
        asked = [(*used[block], place) for block, place in zip(blocks.tolist(), places.tolist())]
        if not self.sparse:
            return torch.from_numpy(np.stack([values[place] for values, place in asked]))
        slices = [slice(ends[place], ends[place + 1]) for _, _, ends, place in asked]
        values = np.concatenate([values[here] for (values, *_), here in zip(asked, slices)])
        columns = np.concatenate([columns[here] for (_, columns, *_), here in zip(asked, slices)])
        ends = np.cumsum([0] + [here.stop - here.start for here in slices])
        return torch.from_numpy(sparse.csr_matrix((values, columns, ends), (len(rows), self.genes)).toarray())

    def _read(self, block: int) -> tuple:
        """Its rows; of a sparse matrix their values, these values' columns, and where each row begins and ends."""
        start, stop = block * self.size, min((block + 1) * self.size, self.n)
        if not self.sparse:
            return (self.matrix[start:stop].astype(np.float32, copy=False),)
        ends = self.ends[start : stop + 1]
        values, columns = (part[ends[0] : ends[-1]] for part in self.parts)
        return values.astype(np.float32, copy=False), columns.astype(np.int32, copy=False), (ends - ends[0]).tolist()
