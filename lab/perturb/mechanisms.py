"""A causal VAE: a perturbation is an operator that moves a few coordinates of the code, and sparsity is what lets these
be told apart (sVAE+, Lopez et al. 2023; SAMS-VAE, Bereket & Karaletsos 2023)."""

import math

import anndata as ad
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from lab.dist import gaussian
from lab.errors import Refused
from lab.nets import Minibatch
from lab.vae import VAE

from .design import Design


class SparseShifts(VAE):
    """z ~ N(sum over parts of mask * shift, I), x ~ likelihood(z): a VAE whose prior knows what was done to the cell.

    Each entry of the masks (P, Z) is open with a learned probability, drawn anew for every minibatch in training by a
    relaxed Bernoulli, and read as open above 1/2 afterwards. With `sparse=False`, the ablation, all are open, and since
    N(0, I) is round, any rotation of the code is as likely: nothing says which coordinates are mechanisms.

    The posterior is the prior times what the encoder says of the cell, N(mean, std^2): exact where the likelihood is
    linear and Gaussian with orthogonal columns. Simplified: sVAE+ learns the masks' prior, too, and SAMS-VAE has a
    posterior over shifts and correlates it with the masks; here `share` is given, and shifts are points under a Laplace
    law (without masks a normal one, as theirs). The sum over parts is SAMS-VAE's; sVAE+ knows no combinations.
    """

    def __init__(self, design: Design, vae: VAE, *, sparse: bool = True, share: float = 0.1):
        if vae.levels or not 0 < share < 1:
            raise Refused(
                f"conditions {sorted(vae.levels)}, share={share}: a VAE without conditions, since its prior is told of "
                "perturbations, and a share of open entries between 0 and 1"
            )
        super().__init__(vae.encoder, vae.decoder, vae.n_latent)
        self.design, self.sparse, self.share = design, sparse, share
        shape = len(design.parts), vae.n_latent
        self.shift = nn.Parameter(0.1 * torch.randn(shape))
        if sparse:
            self.logits = nn.Parameter(torch.full(shape, 2.0))  # open at first: a closed entry learns nothing

    def mask(self) -> Tensor:
        """(P, Z): in training between 0 and 1, drawn; otherwise 0 or 1."""
        if not self.sparse:
            return torch.ones_like(self.shift)
        if not self.training:
            return (self.logits > 0).to(self.shift)
        u = torch.rand_like(self.logits).clamp(1e-6, 1 - 1e-6)
        return ((self.logits + u.logit()) / 0.5).sigmoid()  # temperature 1/2

    def effects(self) -> Tensor:
        """Shifts of the code (P, Z), masked."""
        return self.mask() * self.shift

    def prior(self, cond: Minibatch | None = None) -> Distribution:
        """N(effects of the cell's perturbation, I) over (B, Z); N(0, I) of what has none, and without a minibatch."""
        if cond is None:
            return super().prior()
        mean = self.design(cond) @ self.effects()
        return gaussian(mean, torch.ones_like(mean))

    def posterior(self, x: Tensor, cond: Minibatch) -> Distribution:
        """The prior times the encoder's Gaussian."""
        return self._posterior(x, cond, self.prior(cond))

    def _posterior(self, x: Tensor, cond: Minibatch, prior: Distribution) -> Distribution:
        said = super().posterior(x, cond)
        precision = 1 + said.stddev**-2
        return gaussian((prior.mean + said.mean / said.stddev**2) / precision, precision**-0.5)

    def mask_kl(self) -> Tensor:
        """KL of the masks' Bernoullis to that of `share`, in nats, over all entries: paid once for all cells."""
        if not self.sparse:
            return self.shift.new_zeros(())
        p, log_p, log_not = self.logits.sigmoid(), logsigmoid(self.logits), logsigmoid(-self.logits)
        return (p * (log_p - math.log(self.share)) + (1 - p) * (log_not - math.log1p(-self.share))).sum()

    @torch.no_grad()
    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """Control cells under a perturbation: codes from their posteriors as controls, moved and decoded."""
        shift, alone = self.design.row(name) @ self.effects(), super().prior()
        draw = lambda b: self.likelihood(self._posterior(b["x"], b, alone).sample() + shift, b).sample()
        return self.design.predicted(control, name, draw, seed=seed)


def loss(model: SparseShifts, b: Minibatch, *, n_cells: int, strength: float = 20.0) -> dict[str, Tensor]:
    """-ELBO, and `strength` times what the `n_cells` of training pay once: the masks' KL, and the shifts' -log density
    up to a constant. At strength 1 that is the bound; but no cell's likelihood says how to turn the code, and a force
    so small hardly turns it in a few thousand steps."""
    if n_cells < 1 or not strength >= 0:
        raise Refused(
            f"n_cells={n_cells}, strength={strength}: the training set's number of cells, and a weight from 0 up"
        )
    prior = model.prior(b)  # one draw of the masks for prior and posterior
    q = model._posterior(b["x"], b, prior)
    recon = model.likelihood(q.rsample(), b).log_prob(b["x"])
    kl = torch.distributions.kl_divergence(q, prior)
    slab = model.shift.abs().sum() if model.sparse else 0.5 * model.shift.square().sum()
    once = (model.mask_kl() + slab) / n_cells
    return {"loss": (kl - recon).mean() + strength * once, "recon": recon.mean(), "kl": kl.mean(), "once": once}


def mcc(found, true) -> float:
    """Mean correlation coefficient: each column of `true` (N, K) beside one of `found` (N, Z), Z >= K, none used twice,
    so that the mean of absolute Pearson correlations is largest. 1 where columns are the same up to order, sign and
    scale, whatever their number; correlations of few rows are large by chance, so give many, or a null beside it.

    >>> true = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [2.0, 1.0]])
    >>> round(mcc(-3 * true[:, ::-1], true), 6), round(mcc(true @ [[1, 1], [1, -1]], true), 3)
    (1.0, 0.753)
    """
    return float(np.abs(_matched(found, true)[1]).mean())


def shifts_recovered(found, true) -> dict[str, float]:
    """Of the entries of `true` shifts (P, K) that are not 0, the share that `found` (P, Z) has as well, `recall`, and
    of those it has, the share that are true, `precision`, after each true column has been given the found one, none
    twice, with which its absolute cosine is largest on average: 0 is no shift, so that nothing is centred.

    >>> shifts_recovered(np.array([[0, 2.0], [1, 0], [0, 1]]), np.array([[1.0, 0], [0, 1], [0, 1]]))
    {'recall': 0.6666666666666666, 'precision': 0.6666666666666666}
    """
    columns, _ = _matched(found, true, centred=False)
    has, should = np.asarray(found)[:, columns] != 0, np.asarray(true) != 0
    both = (has & should).sum()
    return {"recall": float(both / should.sum()), "precision": float(both / has.sum()) if has.any() else math.nan}


def _matched(found, true, *, centred: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """For each column of `true` the one of `found`, and their correlations (K,); 0 with a constant."""
    found, true = (np.asarray(a, float) for a in (found, true))
    if found.ndim != 2 or true.ndim != 2 or len(found) != len(true) or found.shape[1] < true.shape[1] or len(true) < 3:
        raise Refused(
            f"columns are matched of tables (N, Z) and (N, K), Z >= K, of three rows or more; got {found.shape} and "
            f"{true.shape}"
        )
    if not (np.isfinite(found).all() and np.isfinite(true).all()) or (np.ptp(true, axis=0) == 0).any():
        raise Refused("shifts hold NaN or infinity, or a true column that is the same in all rows; drop it")
    x, y = (a - a.mean(0) * centred for a in (found, true))
    norm = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    r = np.divide(x.T @ y, norm, out=np.zeros((x.shape[1], y.shape[1])), where=norm > 1e-12)
    rows, columns = linear_sum_assignment(-np.abs(r))
    order = rows[np.argsort(columns)]
    return order, r[order, np.arange(y.shape[1])]
