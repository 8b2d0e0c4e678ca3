"""The guards of who may know what: no cell on two sides, no perturbation both learned and judged, none left out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from lab.baselines.perturb import parts
from lab.errors import Refused

from .cells import Cells

FEW = 10  # genes seen in a cell, below which two cells may be alike by chance
DISJOINT = {  # pairs of sets that may not share a cell, and why
    ("control", "truth_control"): "noise in both would correlate; perturb.control_halves parts them before training",
    ("control", "truth"): "control cells are not perturbed",
    ("truth_control", "truth"): "control cells are not perturbed",
    ("train", "truth"): "what judges a model must not have trained it",
    ("train", "truth_control"): "train and start from `control` alone, perturb.control_halves parts them",
    ("predicted", "truth"): "a prediction is made without the cells that judge it",
    ("predicted", "truth_control"): "start from `control`, perturb.control_halves parts them before training",
}


def sided(cells: dict, separator: str, notes: list[str]) -> tuple[dict, list[str]]:
    """The sets without what is no perturbation to judge, and the names of those; the guards of who may know what."""
    control_names = {label for side in ("control", "truth_control") for label in _labels(cells[side])}
    names = sorted(set(cells["truth"].of))
    if mixed := control_names & set(names):
        raise Refused(f"truth holds cells labelled {min(mixed)!r}, as controls are; put those into truth_control")
    if absent := sorted(set(names) - set(cells["predicted"].of)):
        raise Refused(
            f"predicted lacks {len(absent)} of the {len(names)} perturbations of truth (first: {absent[0]!r}); predict "
            "all, or take the others from truth too"
        )
    if more := sorted(set(cells["predicted"].of) - set(names)):
        notes.append(f"predicted also holds {', '.join(more[:3])}{', ...' * (len(more) > 3)}, which no truth judges")
    small = [name for name, n in zip(*np.unique(cells["truth"].of, return_counts=True)) if n < 4]
    if small or min(len(cells["control"]), len(cells["truth_control"])) < 4:
        raise Refused(
            f"{small[0] if small else 'a half of the controls'} has fewer than 4 cells; leave it out, or add some"
        )
    for (one, other), why in DISJOINT.items():
        if one in cells:
            named = () if one == "predicted" else (cells[one].names, cells[other].names)
            if one != "predicted" or len(cells[one]) > len(set(cells[one].of)):
                assert_disjoint(one, other, named, (cells[one].x, cells[other].x), why)
    if (of := cells["truth"].replicate) is not None:
        pairs = pd.DataFrame({"of": cells["truth"].of, "paired": np.isin(of, cells["truth_control"].replicate)})
        if alone := [name for name, paired in pairs.groupby("of")["paired"].any().items() if not paired]:
            said = f"{len(alone)} of {len(names)} perturbations (such as {alone[0]}) have no replicate in common with B"
            if len(alone) == len(names):
                raise Refused(f"{said}, so that no effect can be told from a replicate's; leave replicate out")
            notes.append(f"DE genes: {said}")
    judged = np.isin(cells["predicted"].of, names)
    cells = cells | {"predicted": cells["predicted"][np.flatnonzero(judged)]}
    if "train" in cells:
        train, a = cells["train"], cells["control"].names
        started = train.names.isin(a) if _named(train.names) and _named(a) else np.zeros(len(train), bool)
        cells["train"] = train[np.flatnonzero(~np.isin(train.of, list(control_names)) & ~started)]
        assert_unseen(set(cells["train"].of), names, separator)
    return cells, names


def _labels(cells: Cells) -> set[str]:
    return set() if cells.of is None else set(cells.of)


def assert_unseen(train: Sequence[str], judged: Sequence[str], separator: str = "+") -> None:
    """Raise `Refused` where a perturbation that is judged stands among those trained on."""
    known = {parts(name, separator) for name in train}
    if seen := sorted(name for name in judged if parts(name, separator) in known):
        raise Refused(
            f"{len(seen)} of the perturbations that are judged stand in the training set (first: {seen[0]!r}); hold "
            "out whole perturbations, perturb.hold_out does"
        )


def assert_disjoint(one: str, other: str, names: tuple, rows: tuple, why: str) -> None:
    """Raise `Refused` where two sets of cells share a name (`names`, an Index each, or none; names that are but numbers
    from 0 say nothing) or a whole profile (`rows`, on one scale)."""
    if all(map(_named, names)) and names and (shared := set(names[0]) & set(names[1])):
        raise Refused(f"{one} and {other} share {len(shared)} cells (first: {min(shared)!r}); {why}")
    if alike := _alike(*rows):
        raise Refused(f"{one} and {other} hold {alike} identical cells under whatever names; {why}")


def _alike(x, y) -> int:
    """How many cells of x (B, G) are cells of y (C, G), but for rounding: found by four random sums of each."""
    sums = np.random.default_rng(0).normal(size=(x.shape[1], 4))
    x, y = (a[np.flatnonzero(_seen(a) >= FEW)] for a in (x, y))
    if not (x.shape[0] and y.shape[0]):
        return 0
    x, y = x @ sums, y @ sums
    near, _ = cKDTree(y).query(x, distance_upper_bound=1e-5 * max(np.abs(y).max(), 1e-9))
    return int(np.isfinite(near).sum())


def _named(cells: pd.Index) -> bool:
    return not cells.equals(pd.RangeIndex(len(cells)).astype(str))


def _seen(x) -> np.ndarray:
    return x.getnnz(axis=1) if hasattr(x, "getnnz") else np.count_nonzero(x, axis=1)
