"""Differential expression by a trained count VAE, in scanpy's format."""

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.errors import Refused

from .bounds import VAE
from .results import minibatches, proportions


@torch.no_grad()
def differential_expression(
    model: VAE,
    adata: ad.AnnData,
    *obs: str,
    groupby: str,
    reference: str = "rest",
    replicate: str | None = None,
    delta: float = 0.5,
    pseudocount: float = 1.0,
    n: int = 100,
    under: dict[str, str] | None = None,
    categories: dict[str, list] | None = None,
    layer: str = "counts",
    key: str = "rank_genes_groups",
) -> None:
    """Write `uns[key]` in scanpy's format, for every level of `obs[groupby]` against `reference`, a level or "rest":
    `scanpy.get.rank_genes_groups_df(adata, group)` and scanpy's plots read it.

    A draw takes z of every cell from its posterior, and bootstrap weights over the cells of a group (over its
    replicates, with `replicate`, a column such as the donor); h is the weighted mean proportion per 10,000 and
    lfc = log2((h_group + pseudocount) / (h_reference + pseudocount)). "rest" pools the other groups, each with the
    weight of its number of cells, as scanpy does; a replicate with cells in several groups is drawn independently in
    each. Over `n` draws, as in Boyeau et al. 2023:
    `logfoldchanges`, the median lfc; `scores`, P(lfc > delta) - P(lfc < -delta); `pvals`, no p-value but the local
    false discovery rate 1 - P(|lfc| > delta); `pvals_adj`, its mean over all genes at least as sure. The decoder's
    weights are taken as known, and cells are not replicates: without `replicate` this describes these cells. `obs`,
    `under` and `categories`, and the order of genes, as in `annotate`.
    """
    if n < 1 or not (delta >= 0 and pseudocount >= 0):
        raise Refused(
            f"n={n}, delta={delta}, pseudocount={pseudocount}: take one draw or more, and thresholds from 0 up"
        )
    reference = str(reference)  # of numbered clusters too
    groups, of_cell, unit = _groups(adata, groupby, reference, replicate)
    size, weight = np.bincount(of_cell), torch.zeros(n, adata.n_obs)
    for g, cells in enumerate(size):  # weights of a group add up to its number of cells
        weight[:, of_cell == g] = cells * bootstrap_weights(unit[of_cell == g], n)
    size, of_cell = torch.from_numpy(size)[:, None], torch.from_numpy(of_cell)  # (K, 1), (B,)
    total, start = 0, 0
    for b, given in minibatches(model, adata, obs, under, categories, layer):
        q, rows = model.posterior(b["x"], b), slice(start, start := start + len(b["x"]))
        member = torch.nn.functional.one_hot(of_cell[rows], len(groups)).float()  # (b, K)
        total = (
            total
            + torch.stack(
                [(member * weight[s, rows, None]).T @ proportions(model, q.sample(), given).cpu() for s in range(n)]
            ).double()
        )
    h = 1e4 * total / size  # (n, K, G)
    rest = 1e4 * (total.sum(1, True) - total) / (adata.n_obs - size)
    against = rest if reference == "rest" else h[:, [groups.index(reference)]].expand_as(h)
    lfc = ((h + pseudocount) / (against + pseudocount)).log2().numpy()
    tables = {group: _table(lfc[:, g], adata.var_names, delta) for g, group in enumerate(groups) if group != reference}
    columns = ("names", "scores", "logfoldchanges", "pvals", "pvals_adj")
    adata.uns[key] = {
        "params": {
            "groupby": groupby,
            "reference": reference,
            "method": "count VAE",
            "use_raw": False,
            "layer": layer,
            "corr_method": "posterior expected false discovery rate",
            "delta": delta,
        }
    } | {
        c: pd.DataFrame({g: table[c].to_numpy() for g, table in tables.items()}).to_records(
            index=False, column_dtypes={g: object if c == "names" else "float64" for g in tables}
        )
        for c in columns
    }


def bootstrap_weights(unit: np.ndarray, n: int) -> Tensor:
    """`n` draws of weights (n, B) of cells that come from R units: Dirichlet over units, equal within one.

    Rubin's Bayesian bootstrap (1981) has the concentration 1. Here it is (R - 2) / R, at which the variance of a
    weighted mean is the squared standard error s^2 / R, at any R > 2; Rubin's is too small by (R - 1) / (R + 1).
    """
    names, which, cells = np.unique(unit, return_inverse=True, return_counts=True)
    draw = torch.distributions.Gamma((len(names) - 2) / len(names), 1.0).sample((n, len(names)))
    share = draw / draw.sum(1, keepdim=True) / torch.from_numpy(cells)
    return share[:, which]


def _table(lfc: np.ndarray, genes: pd.Index, delta: float) -> pd.DataFrame:
    """One group's genes, the surest rise first, from draws (n, G) of its log2 fold change."""
    moved = np.sign(lfc) * (np.abs(lfc) > delta)  # (n, G): 1 up, -1 down, 0 neither
    table = pd.DataFrame(
        {
            "names": genes.astype(str),
            "scores": moved.mean(0),
            "logfoldchanges": np.median(lfc, 0),
            "pvals": (moved == 0).mean(0),
        }
    )
    surest = table["pvals"].sort_values(kind="stable")
    table["pvals_adj"] = (surest.cumsum() / np.arange(1, len(genes) + 1)).groupby(surest).transform("max")
    return table.sort_values(["scores", "logfoldchanges"], ascending=False)


def _groups(
    adata: ad.AnnData, groupby: str, reference: str, replicate: str | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The levels of obs[groupby], each cell's code, and the unit that is drawn: its replicate, or the cell itself."""
    for name in filter(None, (groupby, replicate)):
        if name not in adata.obs or adata.obs[name].isna().any():
            raise Refused(f"obs[{name!r}] must name a group for every cell; add it, or leave out unlabelled cells")
    column = adata.obs[groupby].astype("category").cat.remove_unused_categories().cat
    groups = list(map(str, column.categories))
    if reference == "rest" and "rest" in groups:
        raise Refused(f"obs[{groupby!r}] has a level 'rest', which here means all other groups; rename that level")
    if len(groups) < 2 or reference not in [*groups, "rest"]:
        raise Refused(
            f"obs[{groupby!r}] has the levels {', '.join(groups)}; a comparison needs two, and a reference "
            "that is one of them, or 'rest'"
        )
    unit = np.arange(adata.n_obs) if replicate is None else adata.obs[replicate].astype(str).to_numpy()
    if few := [g for k, g in enumerate(groups) if len(set(unit[column.codes == k])) < 3]:
        raise Refused(
            f"{few[0]!r} holds fewer than three of {replicate or 'the cells'}, too few to say how much "
            "they vary; merge that group with another or leave it out"
        )
    return groups, column.codes.to_numpy().astype(np.int64), unit
