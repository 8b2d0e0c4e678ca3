"""What the public checks of all homework share: the line that one prints, and the cells that a file is marked by."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from lab import data

EMPTY = "not filled in yet"


def public(points: int) -> Callable:
    """Make a check of a function that returns a complaint or None: it prints one line, and never raises."""

    def make(check: Callable) -> Callable:
        name = check.__name__

        @functools.wraps(check)
        def line(answer):
            try:
                complaint = check(answer)
            except Exception as error:
                complaint = f"{type(error).__name__}: {error}".splitlines()[0]
            passed = f"public check ok; hidden tests also count ({points} points)"
            print(f"{name}: {complaint or passed}")

        line.points = points
        return line

    return make


def compare(found: Tensor | None, wanted: float, shape: tuple[int, ...]) -> str | None:
    """What is wrong with an answer that has this shape and begins with this number, or None."""
    if found is None:
        return EMPTY
    if tuple(found.shape) != shape:
        return f"the answer has the shape {tuple(found.shape)}, not {shape}"
    value = float(found.reshape(-1)[0])
    return None if abs(value - wanted) < 1e-4 else f"found {value:.4f} where it is {wanted:.4f}"


def number(found: float | None, wanted: float) -> str | None:
    """The same of an answer that is one number."""
    return EMPTY if found is None else compare(torch.tensor([float(found)]), wanted, (1,))


def earned(full: bool, half: bool) -> str | None:
    """What is wrong with a result file that does not earn its six points, or None."""
    return None if full else f"this file earns {3 if half else 0} of 6 points"


def parts() -> list:
    """PBMC's cells as homework has them: to fit to, to choose by, held out."""
    return data.split(data.pbmc(), (0.7, 0.1, 0.2), stratify="cell_type")
