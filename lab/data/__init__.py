"""Every data set and how it is read: functions that return AnnData, and `loader`, which turns one into minibatches.

Raw counts stand in `layers["counts"]`, log1p(CP10k) in `X`. Sets that are not counts have no such layer and name their
unit in `uns["unit"]`. `sets()` lists them all: what is shipped, what can be fetched, under which licence. Each is a
file in `catalogue/`, found there by its name and imported when it is first called.
"""

import difflib

from . import catalogue
from .catalogue import sets
from .counts import check_counts, column
from .minibatches import loader, minibatch
from .prepare import prepare, thin
from .read import read
from .screens import as_screen, check_screen
from .splits import assert_known_categories, assert_no_leakage, split

__all__ = [
    "as_screen",
    "assert_known_categories",
    "assert_no_leakage",
    "check_counts",
    "check_screen",
    "column",
    "loader",
    "minibatch",
    "prepare",
    "read",
    "sets",
    "split",
    "thin",
    *catalogue.names(),
]


def __getattr__(name: str):
    if name in catalogue.names():
        return catalogue.find(name)
    near = difflib.get_close_matches(name, __dir__(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *catalogue.names()})
