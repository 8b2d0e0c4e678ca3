"""Every data set and how it is read: functions that return AnnData, and `loader`, which turns one into minibatches.

Raw counts stand in `layers["counts"]`, log1p(CP10k) in `X`. Sets that are not counts have no such layer and name their
unit in `uns["unit"]`. `sets()` lists them all: what is shipped, what can be fetched, under which licence.
"""

import pandas as pd

from . import toys
from .batches import loader, minibatch
from .bundled import digits, pbmc
from .counts import check_counts
from .geo import KANG, kang
from .programmes import programmes
from .public import status
from .qc import prepare, thin
from .reading import read
from .splits import assert_known_categories, assert_no_leakage, split
from .sprites import sprites
from .tenx import CITESEQ, PBMC3K, PBMC68K, citeseq, pbmc3k, pbmc68k
from .tissues import bulk, counterfactual_mean

__all__ = [
    "Refused",
    "assert_known_categories",
    "assert_no_leakage",
    "bulk",
    "check_counts",
    "citeseq",
    "counterfactual_mean",
    "digits",
    "kang",
    "loader",
    "minibatch",
    "pbmc",
    "pbmc3k",
    "pbmc68k",
    "prepare",
    "programmes",
    "read",
    "sets",
    "split",
    "sprites",
    "thin",
    "toys",
]


def sets() -> pd.DataFrame:
    """One row per data set: how to call it, its size, licence, citation (key in references.bib), where it comes from,
    and its `status` here.
    """
    columns = ["call", "kind", "cells", "genes", "licence", "citation", "source", "status"]
    embedded = [
        ("pbmc()", "real", 700, 765, "CC BY 4.0", "zheng2017", "scanpy.datasets.pbmc68k_reduced"),
        ("digits()", "real", 1797, 64, "CC BY 4.0", "alpaydin1998", "sklearn.datasets.load_digits"),
        ("bulk()", "simulated", 600, 500, "none needed", "", "lab.data.tissues"),
        ("sprites()", "simulated", 2000, 256, "none needed", "", "lab.data.sprites"),
        ("toys.moons() and four more", "simulated", None, 2, "none needed", "", "lab.data.toys"),
    ]
    public = [
        (
            f"{source.name}()",
            "public",
            source.cells,
            source.genes,
            source.licence,
            source.citation,
            source.page,
            status(source),
        )
        for source in (PBMC3K, PBMC68K, CITESEQ, KANG)
    ]
    return (
        pd.DataFrame([(*row, "embedded") for row in embedded] + public, columns=columns)
        .astype({"cells": "Int64"})
        .set_index("call")
    )
