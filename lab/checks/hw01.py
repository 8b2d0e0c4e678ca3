"""Public checks of homework 1, counts and the ELBO: one small case each. What q6 prints is what is marked."""

import math
from pathlib import Path

import numpy as np
import torch

from lab import data, metrics

from .public import EMPTY, compare, earned, parts, public

COPIES = 60  # ten seeds of the reference: 0 to 2, from the codes of real cells 8 to 19; five cells mixed: 122
FULL, HALF = 1.5, 2.2  # ten seeds of the reference: 0.89 to 1.24; cells of one profile, without latent variable: 2.75


@public(3)
def q1(log_nb):
    """log NB(0 | 2, 1) = log 1/3."""
    one = torch.ones(1, 1)
    return compare(log_nb(0 * one, 2 * one, one[0]), -math.log(3), (1, 1))


@public(2)
def q2(kl_to_prior):
    """A unit shift of one coordinate costs half a nat."""
    return compare(kl_to_prior(torch.ones(1, 1), torch.zeros(1, 1)), 0.5, (1,))


@public(3)
def q3(pathwise):
    """f(z) = 2 z has slope 2 everywhere."""
    found = pathwise(lambda z: 2 * z, torch.tensor(1.0), torch.tensor(0.0), torch.ones(1))
    return EMPTY if found is None else compare(found[0], 2.0, (1,))


@public(3)
def q4(elbo):
    """With the prior as posterior the bound is the reconstruction."""
    z = torch.zeros(1, 2)
    return compare(elbo(lambda z: z.sum(1) - 3, z, z, z), -3.0, (1,))


@public(3)
def q5(ppca):
    """Shapes of the answer."""
    found = ppca(torch.eye(4).repeat(2, 1), 2)
    if found is None:
        return EMPTY
    w, noise = found
    return None if tuple(w.shape) == (4, 2) and float(noise) > 0 else "loadings are (D, Z) and the noise is above 0"


@public(6)
def q6(file):
    """Shape and kind of the numbers, and the distance with its bands."""
    if not Path(file).exists():
        return EMPTY
    cells = np.load(file)["cells"]
    if complaint := no_cells(cells):
        return complaint
    apart, copies = distance(cells), near_copies(cells)
    print(f"q6: energy distance {apart:.3f}; 6 points below {FULL}, 3 below {HALF}")
    print(f"q6: {copies} near-copies of real cells; no points from {COPIES}")
    return earned(apart < FULL and copies < COPIES, apart < HALF and copies < COPIES)


def no_cells(cells: np.ndarray) -> str | None:
    """What is wrong with these as 490 cells' counts, or None."""
    whole = cells.shape == (490, 765) and (cells >= 0).all() and (cells == np.round(cells)).all() and cells.any(1).all()
    return None if whole else f"cells are (490, 765) whole numbers, none empty; this file holds {cells.shape}"


def distance(cells: np.ndarray) -> float:
    """Energy distance of counts (N, 765) to held-out cells, as log1p per thousand, on the ten principal axes of the
    cells that homework 1 fits to."""
    held_out = parts()[2]
    return metrics.energy_distance(components(cells), components(held_out.layers["counts"].toarray()))


def components(cells: np.ndarray) -> np.ndarray:
    """Counts (N, 765) as log1p per thousand on the ten principal axes of the cells that homework 1 fits to, (N, 10)."""
    known = _logs(parts()[0].layers["counts"].toarray())
    return _logs(cells) @ np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:10].T


def near_copies(cells: np.ndarray) -> int:
    """How many of these counts (N, 765) know one real cell: they resemble it by 0.15 more than the tenth most similar,
    as cosines of deviations from the mean profile. Cells that a model draws seldom do."""
    known, centre = data.pbmc(), _logs(parts()[0].layers["counts"].toarray()).mean(0)
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    alike = np.sort(unit(_logs(cells) - centre) @ unit(_logs(known.layers["counts"].toarray()) - centre).T, axis=1)
    return int((alike[:, -1] - alike[:, -10] > 0.15).sum())


def _logs(counts):
    return np.log1p(1e3 * counts / counts.sum(1, keepdims=True))
