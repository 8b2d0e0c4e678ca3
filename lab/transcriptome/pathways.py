"""What genes vary with, read from control cells alone: the weights of an autoencoder's last layer."""

from itertools import chain, islice, repeat

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.data import check_counts, loader
from lab.data.counts import labels
from lab.data.prepare import log_normalise
from lab.errors import Refused
from lab.nets import Minibatch, mlp
from lab.train import cosine


class Autoencoder(nn.Module):
    """Log expression (B, G), each gene in its own standard units, to a code (B, Z) by a network and back by a linear
    map: what is lost is no less than what Z principal components lose."""

    def __init__(self, mean: Tensor, std: Tensor, n: int, n_hidden: int = 128):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0))
        self.encoder, self.decoder = mlp(len(mean), n_hidden, n), nn.Linear(n, len(mean))

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """Squared error, summed over genes, the mean over cells."""
        y = (log_counts(b) - self.mean) / self.std
        return {"loss": (self.decoder(self.encoder(y)) - y).square().sum(1).mean()}


def pathway_features(
    cells: ad.AnnData,
    n: int = 16,
    *,
    by: str = "perturbation",
    control: str = "control",
    steps: int = 1000,
    lr: float = 3e-3,
    seed: int = 0,
) -> pd.DataFrame:
    """Genes x `n` features, how far every coordinate of the code moves the gene, and `level`, its mean log expression,
    each with mean 0 and variance 1 over genes. Of `cells` only those labelled `control` in obs[by] are looked at,
    whatever the others hold. Raises `Refused` for fewer than 2 `n` controls."""
    own = cells[(labels(cells, by).astype(str) == control).to_numpy()]
    if own.n_obs < 2 * n or n < 1:
        raise Refused(
            f"{own.n_obs} cells have obs[{by!r}] = {control!r}, and {n} features ask for {2 * max(n, 1)} or more; name "
            "the control, or take fewer features"
        )
    own = ad.AnnData(layers={"counts": own.layers["counts"].copy()}, obs=own.obs, var=own.var[[]])
    y = log_expression(own)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Autoencoder(*(torch.tensor(f(y, 0)) for f in (np.mean, np.std)), n)
        optimizer, rate = torch.optim.AdamW(model.parameters(), lr=lr), cosine(lr, steps)
        full = ["n_counts"] if "n_counts" in own.obs else []
        batches = chain.from_iterable(repeat(loader(own, *full, seed=seed)))
        for i, b in enumerate(islice(batches, steps)):  # every process by itself, and all alike
            optimizer.param_groups[0]["lr"] = rate(i)
            optimizer.zero_grad()
            model.loss(b)["loss"].backward()
            optimizer.step()
    table = np.column_stack([model.decoder.weight.detach().cpu().numpy(), y.mean(0)])  # (G, Z + 1)
    table = (table - table.mean(0)) / table.std(0)
    return pd.DataFrame(table, own.var_names, [*(f"feature {i + 1}" for i in range(n)), "level"])


def log_counts(b: Minibatch) -> Tensor:
    """log1p of counts per 10,000 (B, G) of a minibatch, by full totals where it has them."""
    total = b["n_counts"][:, None] if "n_counts" in b else b["log_library"].exp()
    return (1e4 * b["x"] / total).log1p()


def log_expression(cells: ad.AnnData) -> np.ndarray:
    """The same of cells, by `obs["n_counts"]` where they have it, as `perturb.evaluate` takes them."""
    sums = check_counts(cells)
    return log_normalise(cells.layers["counts"], cells.obs["n_counts"] if "n_counts" in cells.obs else sums).toarray()
