"""Who may know what: controls in two halves, and perturbations that a model learns from apart from those that judge
it."""

from collections.abc import Sequence

import anndata as ad
import numpy as np

from lab.baselines.perturb import parts
from lab.data import split
from lab.data.counts import labels
from lab.errors import Refused


def control_halves(control: ad.AnnData, seed: int = 0) -> tuple[ad.AnnData, ad.AnnData]:
    """Control cells in two disjoint halves at random: A, from which a model learns and starts, and B, which nothing
    but the truth's shift is measured from."""
    return split(control, (0.5, 0.5), seed=seed)


def hold_out(
    cells: ad.AnnData, by: str = "perturbation", test: float | Sequence[str] = 0.25, *, seed: int = 0
) -> tuple[ad.AnnData, ad.AnnData]:
    """(train, test): perturbed cells with whole perturbations held out, those named or a fraction of them, at random.

    A combination goes to test with all its cells, its parts may stay in train; A+B and B+A are one perturbation.
    """
    if isinstance(test, float):
        names = np.unique([" ".join(parts(name)) for name in labels(cells, by).astype(str)])
        chosen = set(np.random.default_rng(seed).permutation(names)[: round(test * len(names))])
        test = [name for name in labels(cells, by).astype(str).unique() if " ".join(parts(name)) in chosen]
        if not 0 < len(chosen) < len(names):
            raise Refused(f"a fraction of {len(names)} perturbations leaves a part empty; name those to hold out")
    return split(cells, by=by, test=test)
