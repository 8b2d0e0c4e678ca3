"""The compositional perturbation autoencoder (CPA; Lotfollahi et al. 2023): a basal code that an adversary cannot tell
perturbations by, and a vector a perturbation, times a curve of its dose, added to it."""

from functools import partial
from itertools import islice
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lab import train
from lab.data.counts import labels
from lab.errors import Refused
from lab.nets import Minibatch, mlp
from lab.vae import VAE

from .design import Design


class CPA(nn.Module):
    """x ~ vae.likelihood(z + sum over parts of curve(dose) vector), with z, the basal code, from x alone.

    `vae` is the book's, without conditions; in the paper it is an autoencoder without a prior. Covariates such as the
    cell type, which the paper also takes out of z and adds again, are left in it.
    """

    def __init__(self, design: Design, vae: VAE):
        super().__init__()
        if vae.levels:
            raise Refused(
                f"this VAE is told {', '.join(sorted(vae.levels))}; CPA tells it of perturbations: build it without"
            )
        self.design, self.vae, n = design, vae, len(design.parts)
        self.vectors = nn.Parameter(0.1 * torch.randn(n, vae.n_latent))
        self.log_slope, self.offset = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))

    def curve(self, dose: Tensor) -> Tensor:
        """What of each part's vector a dose (..., P) is worth: 0 at 0, 1 at 1, and rising, as sigmoid(slope
        log(1 + dose) + offset) does. It is CPA's "logsigm" with a slope above 0, so that doses near 1 are the unit to
        give; the paper's own default is a network, which need not rise."""
        at = lambda level: (self.log_slope.exp() * level.log1p() + self.offset).sigmoid() - self.offset.sigmoid()
        return at(dose) / at(torch.ones_like(self.offset))

    def effect(self, weights: Tensor) -> Tensor:
        """What is added to the code, (..., Z), of doses (..., P): a sum over parts."""
        return self.curve(weights) @ self.vectors

    def predict(self, control: ad.AnnData, name: str, *, dose: float = 1.0, seed: int = 0) -> ad.AnnData:
        """Control cells under a perturbation, at a dose: basal codes from their posteriors, moved and decoded."""
        effect = self.effect(self.design.row(name, dose)).detach()
        draw = lambda b: self.vae.likelihood(self.vae.posterior(b["x"], b).sample() + effect, b).sample()
        return self.design.predicted(control, name, draw, seed=seed)


def adversary_of(model: CPA, n_hidden: int = 64) -> nn.Module:
    """A network from codes (B, Z) to logits of labels (B, L). (CPA's has a logit a drug; here a pair is one label.)"""
    return mlp(model.vae.n_latent, n_hidden, n_hidden, len(model.design.labels))


def loss(model: CPA, adversary: nn.Module, b: Minibatch, *, strength: float) -> dict[str, Tensor]:
    """-ELBO minus `strength` times the adversary's cross-entropy in nats; `strength` 0 is the ablation. Its parts are
    means over cells. The paper's penalty on the adversary's gradient is left out."""
    q = model.vae.posterior(b["x"], b)
    z = q.rsample()  # (B, Z)
    recon = model.vae.likelihood(z + model.effect(model.design(b)), b).log_prob(b["x"])
    kl = torch.distributions.kl_divergence(q, model.vae.prior())
    fooled = cross_entropy(adversary(z), b[model.design.by])
    return {"loss": (kl - recon).mean() - strength * fooled, "recon": recon.mean(), "kl": kl.mean(), "fooled": fooled}


def adversary_loss(adversary: nn.Module, model: CPA, b: Minibatch) -> dict[str, Tensor]:
    """Cross-entropy of telling a cell's label from its basal code, and the share of cells that are told right."""
    with torch.no_grad():
        z = model.vae.posterior(b["x"], b).sample()
    logits, y = adversary(z), b[model.design.by]
    return {"loss": cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def fit(
    model: CPA,
    batches: DataLoader,
    *,
    n: int,
    lr: float = 2e-3,
    strength: float = 50.0,
    turns: int = 3,
    adversary: nn.Module | None = None,
) -> pd.DataFrame:
    """`n` steps of the model, each after `turns` of its adversary (a new one unless given): two `train.steps` advanced
    in turn. One row a step, the adversary's accuracy beside the model's loss. With strength 0 there is none."""
    if not strength >= 0 or turns < 1:
        raise Refused(f"strength={strength}, turns={turns}: a weight from 0 up, and one turn of the adversary or more")
    adversary = adversary or adversary_of(model)
    ours = train.steps(model, partial(loss, model, adversary, strength=strength), batches, n=n, lr=lr)
    if not strength:
        return pd.DataFrame(ours)
    theirs = train.steps(adversary, partial(adversary_loss, adversary, model), batches, n=n * turns, lr=lr)
    rows = []
    for told in islice(theirs, turns - 1, None, turns):
        rows.append(next(ours) | {"accuracy": told["accuracy"]})
    return pd.DataFrame(rows)


class Leak(NamedTuple):
    """How well labels are told from basal codes: the mean over labels of the share told right, what guessing has, and
    the standard error of a guess."""

    accuracy: float
    chance: float
    error: float


def leak(model: CPA, cells: ad.AnnData, *, seed: int = 0) -> Leak:
    """What a classifier that was not there in training, logistic in codes, squares and products, finds in the basal
    codes of `cells`, two folds: each learns in one half and is asked in the other. The adversary's own accuracy says
    only that this one adversary has lost."""
    if labels(cells, model.design.by).astype(str).value_counts().min() < 4:
        raise Refused("two folds take four cells a label or more; leave rare labels out")
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        batches = ({k: v.to(model.vectors.device) for k, v in b.items()} for b in model.design.loader(cells))
        found = [(model.vae.posterior(b["x"], b).sample(), b[model.design.by]) for b in batches]
    z, y = (torch.cat(part).cpu().numpy() for part in zip(*found))
    classifier = make_pipeline(
        StandardScaler(), PolynomialFeatures(2), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
    )
    told = cross_val_predict(classifier, z, y, cv=StratifiedKFold(2, shuffle=True, random_state=seed))
    present, n = np.unique(y, return_counts=True)
    chance = 1 / len(present)
    right = np.mean([(told[y == label] == label).mean() for label in present])
    return Leak(float(right), chance, float(np.sqrt((chance * (1 - chance) / n).sum()) / len(present)))
