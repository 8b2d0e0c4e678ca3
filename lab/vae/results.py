"""What a trained count VAE says of each cell, written where scanpy looks for it: `obsm` and `layers`."""

from collections.abc import Iterator

import anndata as ad
import torch
from torch import Tensor

from lab.data import loader
from lab.errors import Refused
from lab.nets import Minibatch

from .bounds import VAE


@torch.no_grad()
def annotate(
    model: VAE,
    adata: ad.AnnData,
    *obs: str,
    under: dict[str, str] | None = None,
    categories: dict[str, list] | None = None,
    layer: str = "counts",
    n: int = 10,
) -> None:
    """Write `obsm["X_vae"]`, the posterior means, and `layers["vae_normalized"]`, expected counts per 10,000 of these
    genes, the mean over `n` posterior draws.

    `obs` names the columns that the model is conditioned on, `categories` their labels in the order of their codes in
    training (`loader.dataset.categories`), without which a condition is refused: the model knows the codes alone, and
    `adata` may hold other labels, or these in another order. `under` decodes every cell as of one level,
    {"batch": "batch 1"}, whatever its own. Genes must be those of training, in training's order: only their number can
    be checked.

    For a ZINB the proportions are (1 - pi) rho, renormalised. With LearnedLibrary the last column of X_vae is depth:
    leave it out of neighbours.
    """
    if n < 1:
        raise Refused(f"n={n}: expression is a mean over posterior draws; take one or more")
    latent, normalised = [], []
    for b, given in minibatches(model, adata, obs, under, categories, layer):
        q = model.posterior(b["x"], b)
        latent.append(q.mean)
        normalised.append(sum(proportions(model, q.sample(), given) for _ in range(n)) * (1e4 / n))
    adata.obsm["X_vae"] = torch.cat(latent).cpu().numpy()
    adata.layers["vae_normalized"] = torch.cat(normalised).cpu().numpy()


def minibatches(
    model: VAE,
    adata: ad.AnnData,
    obs: tuple[str, ...],
    under: dict[str, str] | None,
    categories: dict[str, list] | None,
    layer: str,
) -> Iterator[tuple[Minibatch, Minibatch]]:
    """Minibatches in order, on the model's device, each beside the same with the levels of `under`."""
    batches = loader(adata, *obs, layer=layer, size=256, shuffle=False, categories=categories)
    codes, meaning = {}, batches.dataset.categories
    _check_fit(model, adata.n_vars, obs, categories or {})
    for name, level in (under or {}).items():
        if name not in model.levels or level not in meaning.get(name, []):
            raise Refused(
                f"under={{{name!r}: {level!r}}} is no level that the model knows, which is conditioned on "
                f"{', '.join(sorted(model.levels)) or 'nothing'}; name that column after adata, and one of: "
                f"{', '.join(map(str, meaning.get(name, []))) or 'none'}"
            )
        codes[name] = meaning[name].index(level)
    for b in batches:
        b = {name: value.to(model.zero.device) for name, value in b.items()}
        yield b, b | {name: torch.full_like(b[name], code) for name, code in codes.items()}


def _check_fit(model: VAE, n_genes: int, obs: tuple[str, ...], categories: dict[str, list]) -> None:
    """Refuse another number of genes than the model's, and conditions whose codes would not be those of training."""
    if model.n_genes not in (None, n_genes):
        raise Refused(
            f"adata has {n_genes} genes and the model was made for {model.n_genes}; take the genes of training, in "
            "training's order: adata[:, genes]"
        )
    for name, levels in model.levels.items():
        if name in obs and len(known := categories.get(name, ())) != levels:
            raise Refused(
                f"the model has codes for {levels} levels of obs[{name!r}], and "
                f"{f'categories name {len(known)}' if known else 'not their labels'}; pass "
                "categories=loader.dataset.categories of the training cells"
            )


def proportions(model: VAE, z: Tensor, cond: Minibatch) -> Tensor:
    """Expected counts (B, G) as shares of the cell's expected total."""
    mean = model.likelihood(z, cond).mean
    if (mean < 0).any():
        raise ValueError("the model expects counts below 0: proportions need a count likelihood, NB, ZINB or Poisson")
    return mean / mean.sum(-1, keepdim=True)
