"""Two sets of cells brought to one scale, with the labels and programmes that a report asks for."""

from dataclasses import dataclass, replace

import anndata as ad
import numpy as np
import torch
from scipy import sparse

from lab.baselines import profile_cells
from lab.data import check_counts, programmes
from lab.data.counts import LOOK, labels, matrix_of
from lab.data.prepare import log_normalise
from lab.errors import Refused


@dataclass(frozen=True)
class Cells:
    """Expression `x` (N, G), float32; `counts` (N, G) where there are any; `labels` (N,); programmes (G, P)."""

    x: np.ndarray
    counts: np.ndarray | None
    labels: np.ndarray | None
    programmes: np.ndarray | None

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        some = {name: getattr(self, name) for name in ("x", "counts", "labels")}
        return replace(self, **{name: values if values is None else values[rows] for name, values in some.items()})

    def joined(self, other: "Cells") -> "Cells":
        both = {name: (getattr(self, name), getattr(other, name)) for name in ("x", "counts", "labels")}
        return replace(self, **{name: None if pair[0] is None else np.concatenate(pair) for name, pair in both.items()})


def assembled(real, samples, train, label: str | None) -> tuple[Cells, Cells, Cells | None]:
    """The three sets as `Cells` of one scale and one order of genes, or `Refused`."""
    sets = [
        _annotated(a, name) for a, name in ((real, "real"), (samples, "samples"), (train, "train")) if a is not None
    ]
    counted = ["counts" in a.layers for a in sets]
    if any(counted) and not all(counted):
        raise Refused(
            "some of these sets have counts in layers['counts'] and others have not: bring all to one scale, counts or "
            "log-normalised X"
        )
    for a in sets:
        matrix_of(a, "counts" if all(counted) else "X")  # names, shape and kind
    genes = sets[0].var_names
    for a, name in zip(sets[1:], ("samples", "train")):
        if set(a.var_names) != set(genes) or a.n_vars != len(genes):
            lacking = [gene for gene in genes if gene not in set(a.var_names)]
            raise Refused(
                f"{name} and real cells have other genes ({a.n_vars} and {len(genes)}"
                f"{f'; {lacking[0]!r} is missing' if lacking else ''}); take the genes that both have from each"
            )
    if train is not None and (shared := set(sets[0].obs_names) & set(sets[2].obs_names)) and _named(real, train):
        raise Refused(
            f"{len(shared)} cells stand in real and in train (first: {min(shared)!r}); real must be cells that the "
            "model has not seen"
        )
    made = [_cells(a[:, genes], label) for a in sets]
    _check_scale(made, all(counted))
    return (*made, None) if train is None else tuple(made)


def drawn_by_profile(known: Cells, n: int, seed: int) -> Cells:
    """`n` cells of the floor: one negative binomial profile for each label; without counts an uncorrelated Gaussian."""
    codes = np.zeros(len(known), int) if known.labels is None else np.unique(known.labels, return_inverse=True)[1]
    names = None if known.labels is None else np.unique(known.labels)
    if known.counts is None:
        random = np.random.default_rng(seed)
        of = codes[random.integers(len(known), size=n)]
        mean, std = (
            np.stack([f(known.x[codes == k], axis=0) for k in range(codes.max() + 1)]) for f in (np.mean, np.std)
        )
        x = (mean[of] + std[of] * random.standard_normal((n, known.x.shape[1]))).astype(np.float32)
        return replace(known, x=x, labels=None if names is None else names[of])
    x = torch.from_numpy(known.counts.astype(np.float32))
    b = {"x": x, "log_library": x.sum(1, keepdim=True).log(), "label": torch.from_numpy(codes)}
    drawn = profile_cells(b, n, by="label", seed=seed)
    counts = drawn["x"].numpy()
    return replace(
        known, x=_normalised(counts), counts=counts, labels=None if names is None else names[drawn["label"].numpy()]
    )


def _annotated(cells, name: str) -> ad.AnnData:
    if isinstance(cells, ad.AnnData):
        return cells
    x = np.asarray(cells.detach().cpu() if torch.is_tensor(cells) else cells, float)
    if x.ndim != 2:
        raise Refused(f"{name} are AnnData or an array (N, D); got the shape {x.shape}")
    return ad.AnnData(x.astype(np.float32))


def _named(*sets) -> bool:
    """Whether all came with names of their own: arrays have none."""
    return all(isinstance(a, ad.AnnData) for a in sets)


def _cells(a: ad.AnnData, label: str | None) -> Cells:
    of = None if label is None else labels(a, label).astype(str).to_numpy()
    if "counts" in a.layers:
        check_counts(a)
        counts = _dense(a.layers["counts"])
        x = _normalised(counts)
    else:
        counts, x = None, _dense(a.X)
        if not np.isfinite(x).all():
            raise Refused("X holds NaN or infinite values; drop or repair those cells first")
    try:
        of_genes = programmes(a.var_names, min_genes=3)
    except Refused:  # these genes have other names, or there are none: a toy, a simulation
        of_genes = None
    if of_genes is not None:
        of_genes = (of_genes / of_genes.sum()).to_numpy(np.float32)
    return Cells(x, counts, of, of_genes)


def _check_scale(sets: list[Cells], counted: bool) -> None:
    """Refuse whole numbers on one side and fractions on the other, where X is compared."""
    whole = [bool((cells.x[:LOOK] == np.round(cells.x[:LOOK])).all()) for cells in sets]
    if not counted and any(whole) and not all(whole):
        raise Refused(
            "one set's X holds whole numbers and another's fractions: counts cannot be compared with normalised "
            "values; put counts into layers['counts'] of all"
        )


def _dense(matrix) -> np.ndarray:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix[:], np.float32)


def _normalised(counts: np.ndarray) -> np.ndarray:
    return log_normalise(sparse.csr_matrix(counts), counts.sum(1)).toarray()
