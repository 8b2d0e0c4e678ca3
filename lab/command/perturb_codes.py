"""Perturbations in the code of a count VAE: what `train scgen`, `cpa` and `causal-vae` train, their losses, and what
each says of the idea that it is built on."""

from collections.abc import Iterable
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lab import perturb, vae
from lab.data.counts import matrix_of
from lab.nets import Minibatch
from lab.perturb import Design, latent
from lab.vae import VAE, count_vae

from .perturbed import design

ASKED = 5000  # cells, at most, whose basal codes a classifier is asked about


class Arithmetic(nn.Module):
    """`perturb.LatentArithmetic` of a count VAE, whose shifts are taken when it has been trained, and kept."""

    def __init__(self, design: Design, vae: VAE, group: str | None):
        super().__init__()
        self.design, self.vae, self.group = design, vae, group
        self.register_buffer("shifts", torch.zeros(len(design.labels) - 1, vae.n_latent))

    @torch.no_grad()
    def fit(self, batches: Iterable[Minibatch]) -> "Arithmetic":
        """Take them from these cells, within each level of the group."""
        codes, of, kind = [], [], []
        for b in (send_to_device(b, self.shifts.device) for b in batches):
            codes.append(self.vae.posterior(b["x"], b).mean.cpu())
            of.append(b[self.design.by].cpu())
            kind.append(b[self.group].cpu() if self.group else torch.zeros(len(b["x"])))
        named = np.array(self.design.labels)[torch.cat(of)]
        table = latent.shifts(torch.cat(codes).numpy(), named, torch.cat(kind).numpy(), self.design)
        self.shifts.copy_(torch.tensor(table.to_numpy()))
        return self

    def predict(self, control: ad.AnnData, name: str, *, seed: int = 0) -> ad.AnnData:
        """As `perturb.LatentArithmetic`."""
        table = pd.DataFrame(self.shifts.numpy(), self.design.labels[1:])
        return perturb.LatentArithmetic.of(self.vae, self.design, table).predict(control, name, seed=seed)


class Adversarial(nn.Module):
    """`cpa.loss` and its adversary in one loop: where the model goes down, the adversary goes up. A held-out loss is
    without it, minus the ELBO, so that it cannot be lowered by an adversary that has lost its way."""

    def __init__(self, model: perturb.CPA, strength: float):
        super().__init__()
        self.adversary, self.strength = perturb.cpa.adversary_of(model), strength
        for p in self.adversary.parameters():
            p.register_hook(torch.neg)
        self.loss = partial(perturb.cpa.loss, model, self.adversary)  # the model is not a part of it

    def forward(self, b: Minibatch) -> dict[str, Tensor]:
        return self.loss(b, strength=self.strength if self.training else 0.0)


def _vae(known, options: dict) -> VAE:
    return count_vae(len(known.genes), options["n_latent"], options["n_hidden"])


def scgen(known, options: dict) -> Arithmetic:
    """A label that shares no group with controls is refused here, by shifts of a VAE that has learned nothing yet."""
    model = Arithmetic(design(known, options), _vae(known, options), options["group"])
    return model if known.batches is None else model.fit(known.batches)


def scgen_loss(model: Arithmetic, b: Minibatch) -> dict[str, Tensor]:
    """Minus the ELBO of its VAE, in nats."""
    return vae.loss(model.vae, b)


def scgen_claims(model: Arithmetic, cells) -> dict[str, float]:
    """Nothing; but the shifts are taken here, from the training cells, by the VAE as it has become."""
    model.fit(cells.trained(shuffle=False))
    return {}


def cpa(known, options: dict) -> perturb.CPA:
    """The book's count VAE, its labels told apart by vectors."""
    return perturb.CPA(design(known, options), _vae(known, options))


def cpa_loss(model: perturb.CPA, b: Minibatch) -> dict[str, Tensor]:
    """Without an adversary."""
    return perturb.cpa.loss(model, lambda z: z.new_zeros(len(z), len(model.design.labels)), b, strength=0.0)


def adversarial(model: perturb.CPA, options: dict) -> Adversarial:
    """What is trained."""
    return Adversarial(model, options["adversary"])


def cpa_claims(model: perturb.CPA, cells) -> dict[str, float]:
    """How often a classifier that was not there in training tells training cells' labels from basal codes, on average
    over labels, and how often by chance; of labels with four cells or more."""
    by, rows = model.design.by, np.flatnonzero(~cells.held_out)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:ASKED])
    obs = cells.adata.obs.iloc[rows]
    enough = obs.groupby(obs[by].astype(str).to_numpy())[by].transform("size").to_numpy() >= 4
    if obs[by][enough].nunique() < 2:
        return {}
    rows = rows[enough]
    some = ad.AnnData(
        layers={"counts": matrix_of(cells.adata, cells.layer)[rows]}, obs=obs[enough], var=cells.adata.var
    )
    found = perturb.cpa.leak(model, some)
    return {"labels told from basal codes": found.accuracy, "by chance": found.chance}


def causal(known, options: dict) -> perturb.SparseShifts:
    """It keeps what its loss asks for: the number of training cells, and the weight of sparsity. A code of about 0
    begins as the mean profile: else codes go far from 0 to make it, and all perturbations learn the way in common."""
    own = _vae(known, options)
    model = perturb.SparseShifts(design(known, options), own, share=options["share"])
    model.sparsity = options["sparsity"]
    if known.batches is not None:
        model.learned_from = sum(len(b["x"]) for b in known.batches)
        counts = 0.5 + sum(b["x"].sum(0) for b in known.batches)
        own.decoder.net[-1].bias.data = (counts / counts.sum()).log()
    return model


def causal_loss(model: perturb.SparseShifts, b: Minibatch) -> dict[str, Tensor]:
    """Minus the ELBO, and the cell's part of what masks and shifts cost once, in nats."""
    return perturb.mechanisms.loss(model, b, n_cells=model.learned_from, strength=model.sparsity)


def causal_claims(model: perturb.SparseShifts, cells) -> dict[str, float]:
    """Which share of the masks, perturbations x coordinates, is open."""
    return {"share of masks open": model.mask().mean().item()}


def codes(model: nn.Module, b: Minibatch) -> dict[str, Tensor]:
    """Posterior means of the model, or of its VAE."""
    return {"X_vae": getattr(model, "vae", model).posterior(b["x"], b).mean}
