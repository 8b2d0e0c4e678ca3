"""What a page cannot train in its minute: small weights and tables, shipped with the package, each with its story.

Beside a file stands its `.json`: the command or the page's call that made it, seeds, seconds, processor, and a digest
of what it ran. `make shipped` runs again what is stale.
"""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from lab.errors import Refused

READERS = {".csv": pd.read_csv, ".safetensors": load_file}


def open(name: str) -> Any:
    """What is shipped under this name, such as "04-bulk-beta": a DataFrame of results, or a dict of weights by name.

    Raises `Refused` for a name under which nothing is shipped.
    """
    for suffix, read in READERS.items():
        with resources.as_file(_folder() / f"{name}{suffix}") as path:
            if path.is_file():
                return read(path)
    raise Refused(f"nothing is shipped under {name!r}; there is: {', '.join(names())}")


def story(name: str) -> dict[str, Any]:
    """How it was made: `command`, or `page` and `call`; `over` (the values of the blanks), `seconds`, `processor`,
    `spread`, `digest`."""
    return json.loads(_folder().joinpath(f"{name}.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    """Everything that is shipped."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name.endswith(".json"))


def _folder() -> Traversable:
    return resources.files(__name__)
