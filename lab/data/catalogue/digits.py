"""Handwritten digits that scikit-learn ships: images small enough to look at one by one. Not cells."""

import anndata as ad
import numpy as np
from sklearn.datasets import load_digits

from ..card import Card

CARD = Card(
    call="digits()",
    kind="real",
    cells=1797,
    genes=64,
    licence="CC BY 4.0",
    citation="alpaydin1998",
    source="sklearn.datasets.load_digits",
)


def digits() -> ad.AnnData:
    """1,797 handwritten digits of 8 x 8 pixels: `X` (1797, 64), ink 0 to 16, row by row; `obs["digit"]` 0 to 9. Not
    counts.
    """
    source = load_digits()
    images = ad.AnnData(source.data.astype(np.float32))
    images.obs["digit"] = source.target.astype(str)
    images.obs["digit"] = images.obs["digit"].astype("category")
    images.var_names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    images.uns |= {
        "unit": "ink, 0 to 16 (a 4 x 4 block of pixels that are on or off)",
        "source": "sklearn.datasets.load_digits",
    }
    return images
