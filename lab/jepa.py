"""Joint-embedding prediction: the embedding of a target is predicted from the embedding of its context (LeCun 2022).

Nothing is reconstructed, so a constant embedding is a perfect prediction: `loss` takes the terms that forbid it
(VICReg, Bardes et al. 2022; SIGReg, Balestriero & LeCun 2025), or a `JEPA` has a target encoder that only follows
(Grill et al. 2020); `effective_rank` and the spread that `loss` reports show whether that was enough.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from lab.errors import Refused
from lab.nets import ConditionEmbedding, Minibatch
from lab.train import ema_update


class Predictor(nn.Module):
    """net(embed(z, cond)): embedding (B, Z) and what it is told beside, an action, a time gap -> embedding (B, Z)."""

    def __init__(self, net: nn.Module, embed: ConditionEmbedding | None = None):
        super().__init__()
        self.net, self.embed = net, embed or ConditionEmbedding({})

    def forward(self, z: Tensor, cond: Minibatch | None = None) -> Tensor:
        return self.net(self.embed(z, cond))


class JEPA(nn.Module):
    """An encoder x -> (B, Z) and a predictor (z, cond) -> (B, Z).

    Without `decay` one encoder embeds context and target, and learns from both. With it targets are embedded by
    `target_encoder`, a copy that no gradient reaches: call `update()` after each step, and it moves by
    `train.ema_update`, half of the way in ln 2 / (1 - decay) steps.
    """

    def __init__(self, encoder: nn.Module, predictor: nn.Module, *, decay: float | None = None):
        super().__init__()
        if not (decay is None or 0 <= decay <= 1):
            raise Refused(f"decay={decay}: the target keeps a share in [0, 1] of itself; None for one encoder of both")
        self.encoder, self.predictor, self.decay = encoder, predictor, decay
        self.target_encoder = None if decay is None else deepcopy(encoder).requires_grad_(False)

    def forward(self, context: Tensor, target: Tensor, cond: Minibatch | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, Z) of the context, of the target as predicted, and of the target."""
        z = self.encoder(context)
        return z, self.predictor(z, cond), (self.target_encoder or self.encoder)(target)

    def update(self) -> None:
        """The target encoder's step towards the encoder; none where one encoder embeds both."""
        if self.target_encoder is not None:
            ema_update(self.target_encoder, self.encoder, self.decay)


def loss(
    model: JEPA, b: Minibatch, *, variance: float = 0.0, covariance: float = 0.0, gaussian: float = 0.0
) -> dict[str, Tensor]:
    """Squared error of the prediction of b["target"] from b["context"] given b, the mean over coordinates and cells,
    plus the weighted terms, each the mean over both embeddings.

    VICReg is variance=1, covariance=0.04, up to the factor 25 of its authors; LeJEPA is `gaussian`, the weight of
    `sigreg` per cell. Without either, and without a `decay`, the minimum is a constant. Also reported: the terms, and
    `std`, the mean spread of a coordinate of the context's embedding.
    """
    if not min(variance, covariance, gaussian) >= 0:
        raise Refused(f"weights of terms are 0 or more; got {variance=}, {covariance=}, {gaussian=}")
    if "context" not in b or "target" not in b:
        raise Refused(f"a pair is b['context'] and b['target'], and this minibatch has {', '.join(b) or 'nothing'}")
    z, predicted, target = model(b["context"], b["target"], b)
    if predicted.shape != target.shape:
        raise Refused(
            f"the predictor gave {tuple(predicted.shape)} for embeddings {tuple(target.shape)}: match its output"
        )
    report = {"prediction": (predicted - target).square().mean(), "std": z.detach().std(0).mean()}
    terms = {
        "variance": (variance, variance_term),
        "covariance": (covariance, covariance_term),
        "gaussian": (gaussian, lambda z: sigreg(z) / len(z)),
    }
    terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight}
    report |= {name: (term(z) + term(target)) / 2 for name, (_, term) in terms.items()}
    total = report["prediction"] + sum(weight * report[name] for name, (weight, _) in terms.items())
    return {"loss": total, **report}


def variance_term(z: Tensor, *, least: float = 1.0, floor: float = 1e-4) -> Tensor:
    """max(0, least - sqrt(variance + floor)) of each coordinate of z (B, Z) over the batch, their mean: least -
    sqrt(floor) for a constant batch, 0 where every coordinate spreads by `least` or more."""
    return relu(least - (_batch(z).var(0) + floor).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """Squared covariances of different coordinates of z (B, Z), their sum divided by Z: 0 for a constant batch too."""
    c = torch.cov(_batch(z).T).reshape(z.shape[1], z.shape[1])
    return (c - c.diag().diag()).square().sum() / z.shape[1]


def sigreg(z: Tensor, *, n_directions: int = 16, knots: int = 17, limit: float = 5.0) -> Tensor:
    """How far z (B, Z) is from N(0, I): the statistic of Epps & Pulley (1983) of its projections on random directions,
    their mean,

        T = B int |mean_i exp(i t x_i) - exp(-t^2 / 2)|^2 phi(t) dt,    phi the density of N(0, 1),

    by the trapezoid rule at `knots` from 0 to `limit`. Over draws of N(0, I) its mean is 1 - 1 / sqrt 3 for every B; a
    batch at the origin has (1 - sqrt 2 + 1 / sqrt 3) B. The code of LeJEPA has sqrt(2 pi) times this, with limit=3.
    """
    if n_directions < 1 or knots < 3 or not limit > 0:
        raise Refused(f"sigreg takes a direction, three knots, a positive limit; got {n_directions}, {knots}, {limit}")
    directions = nn.functional.normalize(torch.randn(z.shape[-1], n_directions).to(z), dim=0)
    t = torch.linspace(0, limit, knots).to(z)
    weights = (-t.square() / 2).exp() / math.sqrt(2 * math.pi) * 2 * limit / (knots - 1)  # twice: t and -t
    weights[[0, -1]] /= 2
    angles = (_batch(z) @ directions)[..., None] * t  # (B, directions, knots)
    off = (angles.cos().mean(0) - (-t.square() / 2).exp()).square() + angles.sin().mean(0).square()
    return len(z) * (off @ weights).mean()


@torch.no_grad()
def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred z (B, Z) (Roy & Vetterli 2007): from 1, a
    line, to Z, a ball; 0 where all rows are equal up to rounding. It does not depend on scale: look at the spread
    too."""
    s = torch.linalg.svdvals(_batch(z) - z.mean(0))
    if s[0] <= 10 * torch.finfo(z.dtype).eps * z.abs().max() * math.sqrt(z.numel()):
        return 0.0
    p = s / s.sum()
    return torch.special.entr(p).sum().exp().item()


def _batch(z: Tensor) -> Tensor:
    """z (B, Z), refused for a single cell, which has no spread."""
    if z.dim() != 2 or len(z) < 2:
        raise Refused(f"embeddings are (B, Z) with two cells or more, and these are {tuple(z.shape)}")
    return z
