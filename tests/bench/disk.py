"""Cells from disk: a gzip-compressed .h5ad in shuffled order beside the order of the file, and the memory of that.

The file has just been written, so that the system holds it in its page cache: what is timed is unpacking, not the disk.
"""

import statistics
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import anndata as ad
import numpy as np
from models import now
from samples import PEAK
from scipy import sparse

from lab.data import loader, read

CELLS, GENES, AT_A_TIME = 100_000, 3000, 2000
ALONE = (
    PEAK
    + """import sys
from lab.data import loader, read
batches = loader(read(sys.argv[1], on_disk=True))
before = peak()
for _ in batches:
    pass
print(peak() - before)"""
)


def write(path: Path, n: int = CELLS, seed: int = 0) -> Path:
    """Sparse counts of some 600 molecules a cell, of which a cell has some 390 of the genes."""
    random = np.random.default_rng(seed)
    share = random.lognormal(0, 1.5, GENES)
    mean = lambda: random.gamma(2, 300, (AT_A_TIME, 1)) * share / share.sum()
    parts = [sparse.csr_matrix(random.poisson(mean()).astype(np.float32)) for _ in range(-(-n // AT_A_TIME))]
    counts = sparse.vstack(parts, "csr")[:n]
    counts[counts.sum(1).A1 == 0, 0] = 1  # a cell without a count is refused
    ad.AnnData(layers={"counts": counts}).write_h5ad(path, compression="gzip")
    return path


def cells_per_second(path: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Of the wall clock and of CPU time, medians of interleaved repeats: in order, shuffled."""
    cells, took = read(path, on_disk=True), {"in order": [], "shuffled": []}
    for seed in range(repeats):
        for times, shuffle in zip(took.values(), (False, True)):
            batches = loader(cells, shuffle=shuffle, seed=seed)
            start = now()
            deque(batches, 0)
            times.append(now() - start)
    return {name: tuple(len(cells) / statistics.median(clock) for clock in zip(*times)) for name, times in took.items()}


def megabytes(path: Path) -> float:
    """What a shuffled epoch takes beside the open file."""
    said = subprocess.run([sys.executable, "-c", ALONE, str(path)], capture_output=True, text=True, check=True).stdout
    return float(said) / 1000


def table(repeats: int, n: int = CELLS) -> None:
    """Print them."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "cells.h5ad"), n)
        print(f"\n{n:,} x {GENES:,} cells in a gzip-compressed .h5ad of {path.stat().st_size / 1e6:.0f} MB")
        rates = cells_per_second(path, repeats)
        print(f"{'cells per second':<20}{'in order':>10}{'shuffled':>10}{'ratio':>9}")
        for clock, (ordered, shuffled) in zip(("wall clock", "CPU time"), zip(*rates.values())):
            print(f"{clock:<20}{ordered:>10,.0f}{shuffled:>10,.0f}{ordered / shuffled:>8.2f}x", flush=True)
        print(f"a shuffled epoch takes {megabytes(path):.0f} MB", flush=True)
