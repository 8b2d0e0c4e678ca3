"""How much a Markov chain says: its memory, and the number of independent draws that it is worth."""

import numpy as np

from lab.errors import Refused


def autocorrelation(chains, n_lags: int | None = None) -> np.ndarray:
    """Correlation of a chain with itself 0, 1, ..., `n_lags` steps later (default: all): (n_lags + 1,).

    `chains` is one number a step, (N,), or M chains of equal length, (N, M), whose deviations are taken from the mean
    of all: chains that sit in different places correlate with themselves at every lag. Sums are divided by N at every
    lag, as statsmodels' `acf` does. Raises `Refused` for chains that are too short, not finite, or constant.
    """
    x = np.asarray(chains, dtype=float)
    if x.ndim not in (1, 2) or len(x) < 4 or not x.size:
        raise Refused(f"chains are one number a step, (N,) or (N, M) with N of 4 or more; got {x.shape}")
    if not np.isfinite(x).all():
        raise Refused("a chain holds NaN or infinite values: it has diverged, take a smaller step")
    n = len(x)
    if n_lags is None:
        n_lags = n - 1
    if not 0 <= n_lags < n:
        raise Refused(f"{n} steps have lags from 0 to {n - 1}; got n_lags={n_lags}")
    x = (x - x.mean()).reshape(n, -1)
    power = np.square(np.abs(np.fft.rfft(x, 2 * n, axis=0)))  # padded, so that no end meets the beginning
    covariance = np.fft.irfft(power.mean(1))[: n_lags + 1] / n
    if not covariance[0] > 1e-14 * np.square(np.asarray(chains, dtype=float)).mean():
        raise Refused("the chains never move, all values are the same: there is nothing to correlate")
    return covariance / covariance[0]


def effective_sample_size(chains) -> float:
    """How many independent draws would know the mean of `chains`, (N,) or (N, M), as well as these N M values do:
    N M / (1 + 2 sum of the autocorrelations).

    The sum stops where two neighbours first add up to less than nothing, and pairs that grow are held back: the
    initial monotone sequence of Geyer (1992), valid for reversible chains. More than N M for a chain that overshoots.
    One chain cannot know of a mode that it has not seen; start several, far apart.
    """
    rho = autocorrelation(chains)
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(1)  # rho_2j + rho_2j+1 > 0 for a reversible chain
    ends = np.append(np.flatnonzero(pairs <= 0), len(pairs))[0]
    time = 2 * np.minimum.accumulate(pairs[:ends]).sum() - 1
    size = np.asarray(chains).size
    return float(size / max(time, 1 / np.log10(size)))  # the floor of Vehtari et al. (2021)
