"""`sample DIR`: new cells from a finished run, as counts."""

from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from lab.errors import Refused

from .folder import kind, recipe_of, reopen, say, write

CHUNK = 256  # cells drawn at a time


def sample(*, run: Path, n: int, out: Path, condition: dict[str, str], scale: float, seed: int, **walk) -> None:
    """Write to `out` `n` cells drawn from the run's model, of the labels that `condition` gives its columns, which
    `scale` other than 1 follows less or more than the model has learned. `walk`, where it is not None, is the `sampler`
    and its `evaluations`.

    Depths and all other conditions are those of training cells, drawn together, from among the cells with these labels
    or, where no training cell has them all, from all. Raises `Refused`, one sentence.
    """
    model, record = reopen(run)
    levels, name = record["conditions"], record["arguments"]["model"]
    if (draw := recipe_of(record).sample) is None:
        raise Refused(f"{run} holds {kind(record)}, from which no cells can be drawn; train one that can, such as vae")
    if scale != 1:
        _check_guided(run, record)
        draw = partial(draw, scale=scale)
    walk = _walk(run, record, walk)
    codes = {column: _code(levels, column, label) for column, label in condition.items()}
    cells = _conditions(pd.read_csv(run / "depths.csv"), codes).sample(
        n, replace=True, random_state=np.random.default_rng(seed)
    )
    cells = cells.assign(**codes)
    blocks = []
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for start in range(0, n, CHUNK):
            some = cells[start : start + CHUNK]
            b = {column: torch.tensor(some[column].to_numpy()) for column in levels}
            b["log_library"] = torch.tensor(some[["log_library"]].to_numpy(np.float32))  # (B, 1)
            blocks.append(sparse.csr_matrix(draw(model, b, **walk).numpy().astype(np.int32)))  # (B, G)
    labels = {column: pd.Categorical.from_codes(cells[column], of) for column, of in levels.items()}
    names = [f"drawn-{i}" for i in range(n)]
    obs = pd.DataFrame(labels | {"log_library": cells["log_library"].to_numpy(np.float32)}, names)
    origin = {"run": str(run), "model": name, "condition": condition, "scale": scale, "seed": seed} | walk
    var = pd.DataFrame(index=record["genes"])
    drawn = ad.AnnData(layers={"counts": sparse.vstack(blocks, "csr")}, obs=obs, var=var, uns={"sample": origin})
    write(out, drawn.write_h5ad)
    say(f"{out}: {n:,} cells x {drawn.n_vars:,} genes, drawn from the {name} in {run}")


def _check_guided(run: Path, record: dict) -> None:
    """Raise `Refused` where the model draws with no other scale than 1."""
    if not recipe_of(record).guided:
        raise Refused(f"{run} holds {kind(record)}, which knows no --scale, as ddpm and flow do; leave it out")
    if not record["conditions"]:
        raise Refused(
            f"{run} holds {kind(record)} that is told no conditions, so that --scale has none to follow; leave it out"
        )


def _walk(run: Path, record: dict, given: dict) -> dict:
    """The sampler and the evaluations, of those that were given; raise `Refused` where the model has not this one."""
    samplers = recipe_of(record).samplers
    given = {word: value for word, value in given.items() if value is not None}
    if given and not samplers:
        words = " and ".join(f"--{word}" for word in given)
        raise Refused(f"{run} holds {kind(record)}, which is drawn from in one way only; leave {words} out")
    if samplers and given.setdefault("sampler", samplers[0]) not in samplers:
        other = f"not by {given['sampler']}; name one of these"
        raise Refused(f"{run} holds {kind(record)}, which is drawn from by {' or '.join(samplers)}, {other}")
    return given


def _conditions(table: pd.DataFrame, codes: dict[str, int]) -> pd.DataFrame:
    """The training cells that have these codes; all of them, with a word, where none has."""
    alike = table[(table[list(codes)] == list(codes.values())).all(axis=1)]
    if alike.empty:
        say("no training cell has these levels together: depths, and what you did not name, are those of all cells")
    return table if alike.empty else alike


def _code(levels: dict[str, list], column: str, label: str) -> int:
    """The code of a condition's label."""
    if column not in levels:
        told = f"it is told {', '.join(levels)}" if levels else "it is told no conditions, so leave --condition out"
        raise Refused(f"the model knows no condition {column!r}: {told}")
    known = list(map(str, levels[column]))
    if label not in known:
        raise Refused(f"no training cell had {column} {label!r}; give one of: {', '.join(known)}")
    return known.index(label)
