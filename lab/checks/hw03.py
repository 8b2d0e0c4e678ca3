"""Public checks of homework 3, scores, diffusion, guidance: one small case each. What q6 prints is what is marked."""

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .hw01 import COPIES, components, distance, near_copies, no_cells
from .public import EMPTY, compare, earned, parts, public

# The distance, at most, and the share of the types asked for, from and to: ten seeds of the reference -0.05 to -0.03
# and 0.82 to 0.87; a profile of each type 0.12 and 0.97; real cells that are held out 0.78.
FULL, HALF = (0.03, 0.75, 0.9), (0.09, 0.6, 1.0)


@public(3)
def q1(score):
    """One group at 0: the score is -x / std^2."""
    return compare(score(torch.full((1, 2), 3.0), torch.zeros(1, 2), 2.0, torch.ones(1)), -0.75, (1, 2))


@public(3)
def q2(step_back):
    """Two steps of one half: the second, from a cell at 0 that is seen at 1."""
    found = step_back(torch.full((2,), 0.5), 2, torch.zeros(1), torch.ones(1))
    if found is None:
        return EMPTY
    return compare(found[0], 0.5**0.5 * 0.5 / 0.75, (1,)) or compare(torch.as_tensor(found[1])[None], 1 / 3, (1,))


@public(3)
def q3(remix):
    """No noise in x: the cell is rescaled."""
    nought = torch.zeros(1, 2)
    return compare(remix(torch.ones(1, 2), nought, (0.5, 0.8), (0.7, 0.6), 0.0, nought), 1.6, (1, 2))


@public(3)
def q4(tilted):
    """Two equal laws: any scale gives the same."""
    found = tilted(1.0, 2.0, 1.0, 2.0, 3.0)
    return EMPTY if found is None else compare(torch.tensor([float(v) for v in found]), 1.0, (2,))


@public(2)
def q5(remember):
    """Half-way between two cells."""
    return compare(remember(torch.zeros(1, 1), torch.tensor([[1.0], [-1.0]]), 0.5, 0.3), 0.0, (1, 1))


@public(6)
def q6(file):
    """Shape and kind of the numbers, and what is marked, with its bands."""
    if not Path(file).exists():
        return EMPTY
    if complaint := no_cells(np.load(file)["cells"]):
        return complaint
    apart, right, copies = judged(file)
    print(f"q6: energy distance {apart:.3f}; 6 points below {FULL[0]}, 3 below {HALF[0]}")
    print(f"q6: {right:.1%} seem of their type; 6 points from {FULL[1]:.0%} to {FULL[2]:.0%}, 3 from {HALF[1]:.0%}")
    print(f"q6: {copies} near-copies of real cells; no points from {COPIES}")
    within = [apart < most and low < right < high and copies < COPIES for most, low, high in (FULL, HALF)]
    return earned(*within)


def judged(file: str) -> tuple[float, float, int]:
    """Energy distance of the counts in `file` to held-out cells; the share that a classifier of real cells takes for
    the type asked for; how many are near-copies of a real cell. NaN for what are no (490, 765) counts."""
    cells = np.load(file, allow_pickle=False)["cells"].astype(float)
    if no_cells(cells):
        return float("nan"), float("nan"), len(cells)
    fitting = parts()[0]
    real, types = components(fitting.layers["counts"].toarray()), fitting.obs["cell_type"].astype(str).to_numpy()
    taken_for = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(real, types)
    right = (taken_for.predict(components(cells)) == types).mean()
    return distance(cells), float(right), near_copies(cells)
