"""Graphs over genes, symmetric tables of 0 and 1: by co-expression, by shared gene sets, and rewired, which keeps each
gene's number of neighbours and nothing else."""

import anndata as ad
import numpy as np
import pandas as pd

from lab.data import check_counts
from lab.data.prepare import log_normalise
from lab.errors import Refused


def coexpression_graph(control: ad.AnnData, k: int = 10, *, least: float = 0.0) -> pd.DataFrame:
    """Edges from each gene to the `k` whose log expression correlates most with its own over control cells, up or down,
    if by more than `least`; an edge of either is one of both. (GEARS weighs its edges by the correlation.)"""
    x = log_normalise(control.layers["counts"], check_counts(control)).toarray().astype(float)
    x = x - x.mean(0)
    norm = np.sqrt(np.square(x).sum(0))
    alike = np.abs(x.T @ x) / np.where(norm > 0, norm, 1) / np.where(norm > 0, norm, 1)[:, None]
    return _nearest(alike, k, least, control.var_names)


def gene_set_graph(gene_sets: pd.DataFrame, k: int = 10, *, least: float = 0.0) -> pd.DataFrame:
    """Edges from each gene to the `k` with which it shares most of its sets, by Jaccard's index, if more than `least`;
    `gene_sets` is genes x sets, 0 or 1, as `data.programmes` returns. A gene in no set has no neighbour."""
    member = gene_sets.to_numpy(float)
    if not np.isin(member, (0, 1)).all() or not gene_sets.index.is_unique:
        raise Refused("gene sets are a table genes x sets of 0 and 1, a row a gene; (loadings != 0).astype(int) is one")
    both, size = member @ member.T, member.sum(1)
    either = size + size[:, None] - both
    return _nearest(both / np.where(either > 0, either, 1), k, least, gene_sets.index)


def rewired(graph: pd.DataFrame, *, seed: int = 0, swaps: int = 10) -> pd.DataFrame:
    """The ablation: the same genes with as many neighbours each, but others, by `swaps` exchanges an edge of the ends
    of two (Maslov & Sneppen 2002)."""
    table, random = checked(graph).copy(), np.random.default_rng(seed)
    edges = np.argwhere(np.triu(table))
    if len(edges) < 2:
        raise Refused(f"a graph of {len(edges)} edges has no two to exchange ends; take more neighbours")
    for _ in range(swaps * len(edges)):
        i, j = random.integers(len(edges), size=2)
        (a, b), (c, d) = edges[i], random.permutation(edges[j])
        if len({a, b, c, d}) == 4 and not table[a, d] and not table[c, b]:
            for u, v, there in ((a, b, 0), (c, d, 0), (a, d, 1), (c, b, 1)):
                table[u, v] = table[v, u] = there
            edges[i], edges[j] = (a, d), (c, b)
    return pd.DataFrame(table, graph.index, graph.columns)


def checked(graph: pd.DataFrame) -> np.ndarray:
    """The table (V, V) of a graph; `Refused` where it is none."""
    table = graph.to_numpy()
    square = graph.index.is_unique and graph.index.equals(graph.columns)
    if not square or not np.isin(table, (0, 1)).all() or (table != table.T).any() or table.diagonal().any():
        raise Refused(
            "a gene graph is a symmetric table of 0 and 1, the same genes in rows and columns, no gene its own"
        )
    return table.astype(int)


def _nearest(alike: np.ndarray, k: int, least: float, names: pd.Index) -> pd.DataFrame:
    if not 1 <= k < len(names):
        raise Refused(f"k={k}: a gene has from 1 to {len(names) - 1} neighbours among {len(names)}")
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, 1, kind="stable")[:, :k]
    rows = np.arange(len(names))[:, None]
    table = np.zeros(alike.shape, int)
    table[rows, order] = alike[rows, order] > least
    return pd.DataFrame(np.maximum(table, table.T), names, names)
