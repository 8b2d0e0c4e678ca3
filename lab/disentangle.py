"""What a code says about known factors, one coordinate at a time (MIG, DCI, SAP, FactorVAE's score); what the KL of a
VAE is made of; and FactorVAE, which taxes only one part of it, the total correlation.

Codes are (N, Z), factors (N, F), both numbers; a category goes in as one column per level.
"""

import numpy as np
import torch
from scipy import sparse
from sklearn.ensemble import RandomForestRegressor
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus


def mig(codes, factors, *, bins: int = 20) -> float:
    """Mutual information gap (Chen et al. 2018, eq. 6): for each factor the information of its best code minus that of
    the second best, over the factor's entropy; the mean over factors. Chen et al. score draws of the code, from the
    posteriors' densities; here, as in disentanglement_lib, whatever codes are passed are binned.

    Codes, and factors of more than `bins` values, are cut into `bins` intervals of equal width, and the value depends
    on them. A small sample biases every information up, by about (bins - 1)^2 / 2N nats, the gap by less.
    """
    codes, factors = _checked(codes, factors)
    if bins < 2:
        raise ValueError(f"bins={bins}: information between codes needs two intervals or more")
    cut_codes = [_cut(z, bins) for z in codes.T]
    gaps = []
    for v in _levels(factors, bins):
        information = [_entropy(z) + _entropy(v) - _entropy(z * (v.max() + 1) + v) for z in cut_codes]
        second, best = sorted(information)[-2:]
        gaps.append((best - second) / _entropy(v))
    return float(np.mean(gaps))


def dci(codes, factors, *, n_trees: int = 20, max_depth: int = 8, seed: int = 0) -> dict[str, float]:
    """Disentanglement (does a code serve one factor?), completeness (is a factor served by one code?) and
    informativeness (held-out R^2), from the importances of a random forest per factor (Eastwood & Williams 2018).

    Trees are grown on the first three quarters of the rows, which are taken to be in random order. Importances of one
    factor sum to 1 however badly it is predicted: read the first two only where `informativeness` is high.
    """
    codes, factors = _checked(codes, factors)
    if factors.shape[1] < 2:
        raise ValueError("disentanglement asks which of several factors a code serves; pass at least two factors")
    n, importance, r2 = len(codes) * 3 // 4, [], []
    for v in factors.T:
        forest = RandomForestRegressor(n_trees, max_depth=max_depth, max_samples=min(n, 2250), random_state=seed)
        forest.fit(codes[:n], v[:n])
        importance.append(forest.feature_importances_)
        r2.append(forest.score(codes[n:], v[n:]))
    if not (np.any(importance, 1).all() and np.isfinite(r2).all()):
        raise ValueError(
            "a forest found nothing to split on: all codes or a factor are the same in the first three "
            "quarters of the rows, or there are too few; shuffle the rows, and drop what does not vary"
        )
    R = np.array(importance).T  # (Z, F)
    used = R[R.sum(1) > 0]
    weight = used.sum(1) / used.sum()
    return {
        "disentanglement": float(weight @ (1 - _spread(used))),
        "completeness": float((1 - _spread(R.T)).mean()),
        "informativeness": float(np.mean(r2)),
    }


def sap(codes, factors) -> float:
    """Separated attribute predictability (Kumar et al. 2018, section 3): for each factor the R^2 of the line through
    its best code minus that of the second best; the mean over factors. A constant code predicts nothing."""
    codes, factors = _checked(codes, factors)
    z, v = codes - codes.mean(0), factors - factors.mean(0)
    norm = (z**2).sum(0)[:, None] * (v**2).sum(0)  # (Z, F)
    r2 = np.divide((z.T @ v) ** 2, norm, out=np.zeros_like(norm), where=norm > 0)
    second, best = np.sort(r2, axis=0)[-2:]
    return float((best - second).mean())


def factor_score(codes, factors, *, bins: int = 20, size: int = 64, n_votes: int = 500, seed: int = 0) -> float:
    """FactorVAE's score (Kim & Mnih 2018, section 4): draw `size` rows that share one factor, taken at random; of the
    codes, in units of their standard deviations, the one that varies least votes for it. `n_votes` say which factor
    each code stands for; the share of another `n_votes` that agree is the score, about 1 / F for codes of noise.

    Kim & Mnih generate the rows with the factor held fixed; here they are among those given, drawn with replacement in
    the same of `bins` intervals. A code that is constant has no vote."""
    codes, factors = _checked(codes, factors)
    z, random = codes[:, np.ptp(codes, axis=0) > 0], np.random.default_rng(seed)
    if not z.shape[1]:
        raise ValueError("all codes are constant, and none can vary least")
    z, levels, votes = z / z.std(0), _levels(factors, bins), np.zeros((2, z.shape[1], factors.shape[1]))
    for half in votes:
        for f in random.integers(len(levels), size=n_votes):
            alike = np.flatnonzero(levels[f] == random.choice(levels[f]))
            half[z[random.choice(alike, size)].var(0).argmin(), f] += 1
    return float(votes[1][range(z.shape[1]), votes[0].argmax(1)].sum() / n_votes)


def total_correlation(z: Tensor) -> Tensor:
    """KL(N(m, C), product of its marginals) = -1/2 log det corr(z), in nats, of codes (N, Z): exact for Gaussian codes
    as N grows; a sample's is too high, by about Z (Z - 1) / 4N where they are independent. Raises ValueError where one
    code follows from the others, for which it is infinite."""
    if z.dim() != 2 or not len(z) > z.shape[1] > 1 or (z.amax(0) == z.amin(0)).any():
        raise ValueError(
            f"a total correlation is between two codes or more, none constant, of more cells than codes; "
            f"got {tuple(z.shape)}: drop collapsed codes, or add cells"
        )
    if not z.isfinite().all():
        raise ValueError("codes hold NaN or infinity; drop those cells first")
    corr = torch.corrcoef(z.to(torch.promote_types(z.dtype, torch.float32)).T)
    least, vector = (part[..., 0] for part in torch.linalg.eigh(corr.detach()))
    if least < 10 * len(corr) * torch.finfo(corr.dtype).eps:  # what rounding leaves of 0
        raise ValueError(
            f"code {vector.abs().argmax()} is a sum of others to the last digit, so that the total correlation is "
            "infinite; drop that column"
        )
    return -0.5 * corr.logdet()


@torch.no_grad()
def kl_parts(q: Distribution, prior: Distribution) -> dict[str, Tensor]:
    """The mean KL of N diagonal Gaussian posteriors to a diagonal Gaussian prior, in three parts that sum to it on
    average: `information` I(n; z) <= log N, `total_correlation` of q(z), and `dimensions`, the KLs of its marginals
    (Hoffman & Johnson 2016; Chen et al. 2018, eq. 2).

    q(z) is the mixture of the N posteriors, all N^2 densities computed; the means over z take one draw from each.
    """
    z = q.sample()  # (N, Z)
    density = q.base_dist.log_prob(z[:, None])  # (N, N, Z): of draw n under posterior m
    log_n = np.log(len(z))
    joint = density.sum(-1).logsumexp(1) - log_n  # log q(z), (N,)
    marginals = density.logsumexp(1) - log_n  # log q(z_i), (N, Z)
    return {
        "information": (q.log_prob(z) - joint).mean(),
        "total_correlation": (joint - marginals.sum(-1)).mean(),
        "dimensions": (marginals.sum(-1) - prior.log_prob(z)).mean(),
    }


def _shuffled(z: Tensor) -> Tensor:
    """z (B, Z) with every column in an order of its own: draws from the product of the marginals."""
    return torch.stack([column[torch.randperm(len(z))] for column in z.T], -1)


def discriminator_loss(discriminator: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of telling codes z (B, Z) from shuffled ones by the logit discriminator(z) (B, 1); its best logit
    is log q(z) - log prod q(z_i), so that `tc`, the mean over z, estimates the total correlation in nats.

    Kim & Mnih (2018) shuffle a second minibatch; this one is shuffled twice over, which saves a pass."""
    z = z.detach()
    together, apart = discriminator(z), discriminator(_shuffled(z))  # (B, 1)
    return {"loss": 0.5 * (softplus(-together) + softplus(apart)).mean(), "tc": together.mean()}


def factor_loss(discriminator: nn.Module, recon: Tensor, kl: Tensor, z: Tensor, *, gamma: float) -> dict[str, Tensor]:
    """-ELBO + gamma * total correlation, the latter by the discriminator (FactorVAE; Kim & Mnih 2018, eq. 2), from
    what `vae.terms` returns: `recon` and `kl` (B,), `z` (B, Z). `z` is not among the entries: a loop logs means, and
    the discriminator takes a fresh draw from `model.posterior`."""
    tc = discriminator(z).mean()
    return {"loss": (kl - recon).mean() + gamma * tc, "recon": recon.mean(), "kl": kl.mean(), "tc": tc}


def _checked(codes, factors) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = (np.asarray(a.toarray() if sparse.issparse(a) else a, np.float64) for a in (codes, factors))
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise ValueError(f"codes are (N, Z) and factors (N, F), one row a cell; got {codes.shape}, {factors.shape}")
    if codes.shape[1] < 2:
        raise ValueError("a gap is between two codes; pass at least two columns, constant ones included")
    if not (np.isfinite(codes).all() and np.isfinite(factors).all()):
        raise ValueError("codes or factors hold NaN or infinity; drop those cells first")
    if (constant := np.ptp(factors, axis=0) == 0).any():
        raise ValueError(f"factor {constant.argmax()} is the same in every cell and cannot be found; drop its column")
    return codes, factors


def _cut(values: np.ndarray, bins: int) -> np.ndarray:
    """Interval 0 to bins - 1 of each value; all 0 for a constant."""
    low, width = values.min(), np.ptp(values) / bins
    return np.minimum((values - low) / (width or 1), bins - 1).astype(int)


def _levels(factors: np.ndarray, bins: int) -> list[np.ndarray]:
    """Each factor's values numbered from 0, or their intervals where there are more than `bins`."""
    return [_cut(v, bins) if len(np.unique(v)) > bins else np.unique(v, return_inverse=True)[1] for v in factors.T]


def _entropy(labels: np.ndarray) -> float:
    p = np.bincount(labels) / len(labels)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def _spread(rows: np.ndarray) -> np.ndarray:
    """Entropy of each row scaled to sum to 1, in units of the largest there is: 0 for one-hot, 1 for uniform."""
    p = rows / rows.sum(1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(rows.shape[1])
