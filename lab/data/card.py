"""What is known of a data set before it is opened: its card."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["real", "simulated", "public", "table"]
KINDS = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One data set: how to call it, how large it is, whose it is and where it comes from.

    Sets that are "real" or "simulated" need no download. Those that are "public" are fetched from the addresses in
    `files`. A "table" is no set of cells. `cells` and `genes` are what the call returns when nothing else is asked, or
    None where it returns as many as one asks for; of a public set, what the published files hold. A file without a hash
    ("") is checked by the one that its archive states, which is asked when it is downloaded; its address is a DOI.
    """

    call: str  # "kang()", as it stands behind `data.`
    kind: Kind
    cells: int | None
    genes: int
    licence: str
    source: str  # where a person reads about it, which package ships it, or the module that simulates it
    citation: str = ""  # key in references.bib
    files: dict[str, str] = field(default_factory=dict)  # address ending in the file's name: its hash, "sha256:…"
    instead: str = ""  # the set to use when this one is out of reach
    subset: str | None = None  # a development subset, by the name of its file

    @property
    def name(self) -> str:
        """The call without its brackets."""
        return self.call.removesuffix("()")


def default(call: Callable, argument: str) -> Any:
    """What `call` takes for `argument` when it is not given: how a simulator's card states its size."""
    return inspect.signature(call).parameters[argument].default
