"""What a network is told beside its input: conditions, each by a learned vector.

`cond`, wherever it occurs, is the minibatch: a network takes from it the conditions that it was built with.
"""

from contextlib import suppress

import torch
from torch import Tensor, nn

Minibatch = dict[str, Tensor]


class ConditionEmbedding(nn.Module):
    """h (..., B, D) -> (..., B, D + n): appends a learned vector per condition.

    `levels` maps each condition's name to its number of levels; `cond[name]` holds
    codes (B,), or weights (B, levels) of a mixture of levels. `numbers` maps the name
    of a measurement (a dose, a fingerprint) to its width; `cond[name]`, (B,) or
    (B, width), goes through a linear map. With `null` the code -1, and nothing else,
    picks a row of its own that begins at 0: no condition.
    """

    def __init__(
        self, levels: dict[str, int], *, n_embed: int = 8, numbers: dict[str, int] | None = None, null: bool = False
    ):
        super().__init__()
        numbers = numbers or {}
        self.levels, self.names = dict(levels), {_key(name): name for name in (*levels, *numbers)}
        self.n = n_embed * (len(levels) + len(numbers))
        self.tables = nn.ParameterDict({_key(name): torch.randn(n, n_embed) for name, n in levels.items()})
        self.maps = nn.ModuleDict({_key(name): nn.Linear(n, n_embed) for name, n in numbers.items()})
        self.nulls = nn.ParameterDict({_key(name): torch.zeros(n_embed) for name in (levels if null else ())})

    def forward(self, h: Tensor, cond: Minibatch | None) -> Tensor:
        rows = [level(table, cond, self.names[key], self.nulls.get(key)) for key, table in self.tables.items()]
        rows += [number(linear, cond, self.names[key]) for key, linear in self.maps.items()]
        return torch.cat([h, *(row.expand(*h.shape[:-1], -1) for row in rows)], -1) if rows else h


def _key(name: str) -> str:
    """What torch registers a condition under: it takes no dot ("cell.type") and no name of its own ("type")."""
    safe = name.replace(".", ":")
    return f"{safe}:" if not safe or hasattr(nn.ParameterDict, safe) or hasattr(nn.ModuleDict, safe) else safe


def level(table: Tensor, cond: Minibatch | None, name: str, null: Tensor | None = None) -> Tensor:
    """The row (B, n) of `table` that each cell's condition `name` picks, or the
    weighted mean of rows; `null` (n,) where the code is -1, if it is given.

    Raises ValueError for a condition that the minibatch lacks or the table has not.
    """
    y = entry(cond, name)
    if y.is_floating_point() and y.dim() > 1 and y.shape[-1] == len(table):
        return y.to(table.dtype) @ table
    if y.dim() == 1 and y.dtype == torch.int64:
        with suppress(IndexError):  # no check that would make a GPU wait
            rows = nn.functional.embedding(y if null is None else y.masked_fill(y == -1, 0), table)
            return rows if null is None else torch.where((y == -1)[:, None], null, rows)
    raise ValueError(
        f"{name!r} takes int64 codes (B,) from 0 to {len(table) - 1}{'' if null is None else ', -1 for none'}, or "
        f"weights (B, {len(table)}), and got {tuple(y.shape)} {y.dtype}; store labels as astype('category')"
    )


def number(linear: nn.Linear, cond: Minibatch | None, name: str) -> Tensor:
    """The vector (B, n) of the measurement `name`, which is (B, width) or, of width 1, also (B,).

    Raises ValueError for one that the minibatch lacks or that has another shape.
    """
    y, width = entry(cond, name), linear.in_features
    if not y.is_floating_point() or y.shape[1:] != (width,) and (width > 1 or y.dim() > 1):
        raise ValueError(f"{name!r} takes float numbers (B, {width}), and got {tuple(y.shape)} {y.dtype}")
    return linear(y.reshape(len(y), width).to(linear.weight.dtype))


def entry(cond: Minibatch | None, name: str) -> Tensor:
    """`cond[name]`; ValueError where it is missing."""
    if cond is None or name not in cond:
        raise ValueError(
            f"the model is conditioned on {name!r}: load that column, loader(adata, {name!r}), and pass the minibatch"
        )
    return cond[name]


def drop(b: Minibatch, *names: str, p: float) -> Minibatch:
    """The minibatch with the conditions `names` taken away, code -1, from each cell with probability p, all of a
    cell's together: what a network needs to learn the unconditional law beside the conditional one
    (Ho & Salimans 2022)."""
    if not (names and 0 <= p <= 1):
        raise ValueError(f"drop takes the names of conditions and a probability, got {names} and p={p}")
    for name in names:
        if (y := entry(b, name)).dtype != torch.int64 or y.dim() != 1:
            raise ValueError(f"{name!r} is {tuple(y.shape)} {y.dtype}, and only codes (B,) have a -1 for none")
    gone = torch.rand(len(b[names[0]]), device=b[names[0]].device) < p
    return b | {name: b[name].masked_fill(gone, -1) for name in names}
