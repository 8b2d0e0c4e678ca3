"""The data sets: one file a call, or a family of calls, each with its card.

The file is all that the package needs of a new set; nothing lists the sets. `data.kang` is `kang` in `kang.py`,
`data.pbmc68k` is a function beside `pbmc3k` in `pbmc3k.py`, and `data.toys`, a file without a function of its name, is
the file itself.
"""

import functools
import importlib
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ..card import KINDS, Card
from ..public import status


@functools.cache
def names() -> dict[str, str]:
    """Every name that the catalogue gives to `lab.data`, and the file that has it, without importing one."""
    found = {}
    for path in sorted(path for folder in __path__ for path in Path(folder).glob("[!_]*.py")):
        functions = re.findall(r"^def ([a-z]\w*)\(", path.read_text(encoding="utf-8"), re.M)
        found |= dict.fromkeys(functions if path.stem in functions else [path.stem], path.stem)
    return found


def find(name: str) -> Any:
    """The function, or the family's module, that `data.<name>` is; it alone is imported. KeyError for other names."""
    return getattr(module := _module(names()[name]), name, module)


def cards() -> list[Card]:
    """The cards of all sets: real, simulated, public, tables; among these the smallest first, a family together."""
    files = [_module(file) for file in dict.fromkeys(names().values())]
    families = [[value for value in vars(file).values() if isinstance(value, Card)] for file in files]
    families = sorted(filter(None, families), key=lambda f: (KINDS.index(f[0].kind), f[0].cells or math.inf))
    return [card for family in families for card in family]


def sets() -> pd.DataFrame:
    """One row per set of cells, from its card: how to call it, its size, licence, citation (key in references.bib),
    where it comes from, and its `status` here.
    """
    columns = ["call", "kind", "cells", "genes", "licence", "citation", "source"]
    rows = [[getattr(card, column) for column in columns] + [status(card)] for card in cards() if card.kind != "table"]
    return (
        pd.DataFrame(rows, columns=[*columns, "status"]).astype({"cells": "Int64", "genes": "Int64"}).set_index("call")
    )


def _module(file: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{file}")
