"""Genes as tokens of a sequence: who each is, where on the genome, and what it varies with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.errors import Refused
from lab.nets import mlp

CHROMOSOMES = 64  # rows of the embedding, of which a genome uses the first
WAVES = np.geomspace(1e5, 2.5e8, 12)  # bases: from two genes' distance to the longest human chromosome
NEAR = 1e5  # bases: gaps between genes are told in its powers of e, from -3 to 3


def loci(genes: Sequence[str], annotation: pd.DataFrame) -> pd.DataFrame:
    """`chromosome` and `start` (bases) of each of `genes`, a row each in their order; NaN where `annotation` does not
    say, and how many those are is printed.

    `annotation` has columns `chromosome` (or `chr`) and `start`, and names genes in its column `symbol` or its index;
    of a name that occurs twice the first row counts. Raises `Refused` where none of the genes has a locus.
    """
    genes, table = pd.Index(genes).astype(str), annotation.rename(columns={"chr": "chromosome"})
    if missing := {"chromosome", "start"} - set(table):
        raise Refused(f"the annotation has no column {min(missing)!r}; it takes a row a gene, chromosome and start")
    if not genes.is_unique:
        raise Refused(f"gene name {genes[genes.duplicated()][0]!r} occurs twice; call adata.var_names_make_unique()")
    table = table.set_index("symbol") if "symbol" in table else table
    where = table.loc[~table.index.duplicated(), ["chromosome", "start"]].reindex(genes)
    start = pd.to_numeric(where["start"], errors="coerce").where(where["chromosome"].notna())
    if (unfit := ~(start.isna() | (start >= 0) & np.isfinite(start))).any():
        raise Refused(f"{genes[unfit][0]!r} starts at {start[unfit].iloc[0]:g}; a locus is a number of bases from 0 up")
    if start.isna().all():
        raise Refused(f"the annotation has none of the {len(genes)} genes (the first is {genes[0]!r}); check the names")
    _say_unknown(genes[start.isna()], len(genes), "locus")
    name = where["chromosome"].astype(str).str.removesuffix(".0")  # a column with gaps holds floats
    return pd.DataFrame({"chromosome": name.where(start.notna()), "start": start}, genes)


def shuffled(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The ablation: the same rows, dealt to the genes at random."""
    order = np.random.default_rng(seed).permutation(len(table))
    return table.iloc[order].set_axis(table.index)


def gene_descriptors(where: pd.DataFrame, pathways: pd.DataFrame | None = None) -> pd.DataFrame:
    """What a knock-down may be described by, that of any gene: its chromosome, the waves of its start and the gaps
    beside it, whether its locus is unknown, and its row of `pathways`. Genes x features, of which many may be 0."""
    codes, places, known = _placed(where)
    table = np.concatenate([np.eye(CHROMOSOMES)[codes] * known[:, None], places, ~known[:, None]], 1)
    table = pd.DataFrame(table, where.index, [f"locus {i + 1}" for i in range(table.shape[1])])
    return table if pathways is None else pd.concat([table, pathways.reindex(where.index).fillna(0)], axis=1)


class GeneTokens(nn.Module):
    """A token (G, W) a gene, three vectors side by side: one learned for the gene, which begins small, so that what all
    genes share is learned first; one made by a network of its chromosome's embedding, of sines and cosines of its
    start, at wavelengths from 100 kb to 250 Mb, and of the gaps to the genes before and after it, or learned for all
    genes without a locus; and a linear map of its row of `pathways`, or one learned for all genes without a row.

    `where` is `loci`'s table. `order` (G,), the genes as they follow one another in the sequence, is that of the
    genome, genes without a locus last, unless it is given. `pathways` is genes x features, such as `pathway_features`
    or gene sets; without it the other two take its width.
    """

    def __init__(
        self,
        where: pd.DataFrame,
        pathways: pd.DataFrame | None = None,
        *,
        width: int = 64,
        order: Sequence[int] | None = None,
    ):
        super().__init__()
        if width < 8 or width % 4:
            raise Refused(
                f"width={width}: tokens have three parts, a half and two quarters; take a multiple of 4 from 8"
            )
        self.genes, self.width = where.index, width
        codes, places, known = _placed(where)
        order = in_genome_order(where) if order is None else np.asarray(order)
        if not np.array_equal(np.sort(order), np.arange(len(where))):
            raise Refused(f"an order of {len(where)} genes has each number from 0 to {len(where) - 1} once")
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("code", torch.tensor(codes))
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32))
        self.register_buffer("known", torch.tensor(known))
        quarter = width // 4
        self.identity = nn.Parameter(0.02 * torch.randn(len(where), width - quarter * (1 if pathways is None else 2)))
        self.chromosome = nn.Parameter(torch.randn(CHROMOSOMES, 8))
        self.locus, self.nowhere = mlp(8 + places.shape[1], 2 * quarter, quarter), nn.Parameter(torch.zeros(quarter))
        self.pathway = None
        if pathways is not None:
            table = pathways.reindex(where.index)
            there = table.notna().all(axis=1).to_numpy()
            _say_unknown(where.index[~there], len(where), "pathway features")
            self.register_buffer("features", torch.tensor(table.fillna(0).to_numpy(float), dtype=torch.float32))
            self.register_buffer("featured", torch.tensor(there))
            self.pathway, self.apart = nn.Linear(table.shape[1], quarter), nn.Parameter(torch.zeros(quarter))

    def forward(self) -> Tensor:
        locus = self.locus(torch.cat([self.chromosome[self.code], self.places], 1))
        parts = [self.identity, torch.where(self.known[:, None], locus, self.nowhere)]
        if self.pathway is not None:
            parts.append(torch.where(self.featured[:, None], self.pathway(self.features), self.apart))
        return torch.cat(parts, 1)


def in_genome_order(where: pd.DataFrame) -> np.ndarray:
    """Rows by chromosome, then start; those without a locus last."""
    start = where["start"].to_numpy(float)
    return np.lexsort([start, where["chromosome"].fillna("").astype(str), np.isnan(start)])


def _placed(where: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of chromosomes (G,); sines and cosines of starts, and gaps to the genes before and after, (G, 26); and
    which genes have a locus (G,)."""
    if where.empty or set(where) != {"chromosome", "start"}:
        raise Refused("where genes lie is a table of chromosome and start, as loci(genes, annotation) makes it")
    start, order = where["start"].to_numpy(float), in_genome_order(where)
    codes, names = pd.factorize(where["chromosome"], sort=True)
    if len(names) > CHROMOSOMES:
        raise Refused(
            f"{len(names)} chromosomes, and {CHROMOSOMES} are the most; leave scaffolds out of the annotation"
        )
    phase = 2 * np.pi * np.nan_to_num(start)[:, None] / WAVES
    beside = codes[order][1:] == codes[order][:-1]
    apart = np.where(beside, np.diff(start[order]).clip(1), np.inf)  # an end of a chromosome is far from all
    gaps = np.empty((len(where), 2))
    gaps[order] = np.log(np.column_stack([[np.inf, *apart], [*apart, np.inf]]) / NEAR).clip(-3, 3)
    known = ~np.isnan(start)
    return codes.clip(0), np.concatenate([np.sin(phase), np.cos(phase), np.where(known[:, None], gaps, 0)], 1), known


def _say_unknown(genes: pd.Index, n: int, what: str) -> None:
    if len(genes):
        print(f"{len(genes):,} of {n:,} genes have no {what} (first: {genes[0]}); one learned vector serves for all")
