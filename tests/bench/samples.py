"""Distances between samples against the straightforward lines of scipy, their memory, and a report's seconds."""

import statistics
import subprocess
import sys
from functools import partial

import anndata as ad
import numpy as np
import torch
from models import now
from scipy import sparse
from scipy.spatial.distance import cdist, pdist

from lab import metrics

N, D, MANY, THREADS = 5000, 50, 50_000, 2
PEAK = """import resource
def peak():  # Linux hands a process's ru_maxrss on to what it starts, and not its VmHWM
    try:
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
"""
ALONE = (
    PEAK
    + """import numpy as np
from lab import metrics
before = peak()
x, y = np.random.default_rng(0).normal(size=(2, {n}, {d}))
metrics.{name}(x, y)
print(peak() - before)"""
)


def energy_by_scipy(x, y) -> float:
    """The energy distance as one writes it first."""
    return 2 * cdist(x, y).mean() - sum(2 * pdist(z).sum() / (len(z) * (len(z) - 1)) for z in (x, y))


def mmd_by_scipy(x, y) -> float:
    """The same of the squared MMD, at the bandwidth of lab's."""
    some = slice(None, None, 1) if len(x) <= 2000 else np.linspace(0, len(x) - 1, 2000).round().astype(int)
    width = 2 * np.median(cdist(x[some], y[some])) ** 2
    kernel = lambda squared: np.exp(-squared / width)
    own = (kernel(pdist(z, "sqeuclidean")).sum() * 2 / (len(z) * (len(z) - 1)) for z in (x, y))
    return sum(own) - 2 * kernel(cdist(x, y, "sqeuclidean")).mean()


DISTANCES = {"energy distance": (metrics.energy_distance, energy_by_scipy), "MMD": (metrics.mmd, mmd_by_scipy)}


def seconds(calls, repeats: int) -> list[float]:
    """Medians on the wall, of interleaved repeats."""
    took = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(took, calls):
            start = now()
            call()
            times.append((now() - start)[0])
    return list(map(statistics.median, took))


def megabytes(name: str, n: int = MANY) -> float:
    """What a distance between n and n points takes beside lab itself, the points included."""
    code = ALONE.format(n=n, d=D, name=name)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(said) / 1000


def cells(n: int = N, genes: int = 2000, seed: int = 0) -> ad.AnnData:
    """Sparse counts of a thousand molecules a cell."""
    random = np.random.default_rng(seed)
    mean = 1000 * random.dirichlet(np.full(genes, 0.3)) * random.gamma(2, 0.5, (n, genes))
    names = [f"{seed}-{i}" for i in range(n)]
    return ad.AnnData(layers={"counts": sparse.csr_matrix(random.poisson(mean).astype(np.int32))}, obs={"name": names})


def table(repeats: int) -> None:
    """Print them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    x, y = np.random.default_rng(0).normal(size=(2, N, D)) + np.array([0, 0.1])[:, None, None]
    print(f"\n{N:,} against {N:,} points of {D} dimensions, lab on {THREADS} threads")
    print(f"{'seconds on the wall':<20}{'lab':>10}{'scipy':>10}{'ratio':>9}{'apart by':>11}{f'MB at {MANY:,}':>14}")
    for name, (ours, theirs) in DISTANCES.items():
        lab, scipy = seconds([partial(ours, x, y), partial(theirs, x, y)], repeats)
        apart, room = abs(ours(x, y) - theirs(x, y)), megabytes(ours.__name__)
        print(f"{name:<20}{lab:>10.2f}{scipy:>10.2f}{scipy / lab:>8.1f}x{apart:>11.0e}{room:>14.0f}", flush=True)
    real, drawn = (cells(seed=seed) for seed in (0, 1))
    for size in (1000, N):
        (took,) = seconds([partial(metrics.sample_report, real, drawn, size=size)], 1)
        print(f"sample_report of {N:,} x 2,000, {size:,} compared: {took:.0f} s", flush=True)
    torch.set_num_threads(threads)
