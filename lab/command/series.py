"""Cells as series: which rows are one track, what led to each of them, and the windows that a model learns from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from lab.data.counts import column, labels
from lab.errors import Refused
from lab.nets import Minibatch

from . import parts
from .parts import Cells, served

WINDOW, TOGETHER = 20, 16  # rows of a window, at most; whole tracks at a time


@dataclass(frozen=True)
class Series(Cells):
    """Cells of which some are one track: `tracks` has the rows of each, in time. Minibatches are of windows, `window`
    rows in a row of one track: their entries are (B, T, ...), with "action" (B, T, A), of which `levels` has the
    names. A track is held out as a whole."""

    tracks: list[np.ndarray]
    window: int

    def trained(self, shuffle: bool = True) -> DataLoader:
        """Minibatches of all windows of training tracks."""
        return self._windows(~self.held_out, shuffle)

    @property
    def tested(self) -> DataLoader:
        """Minibatches of all windows of held-out tracks, in order."""
        return self._windows(self.held_out, False)

    def depths(self) -> pd.DataFrame:
        """`log_library` of every row of a training track."""
        return Cells.depths(replace(self, levels={}))

    def _windows(self, which: np.ndarray, shuffle: bool) -> DataLoader:
        views = [np.lib.stride_tricks.sliding_window_view(rows, self.window) for rows in self.tracks if which[rows[0]]]
        return served(_Windows(self.everyone.dataset, np.concatenate(views)), self.everyone, shuffle, self.seed)


class _Windows(Dataset):
    """Rows (W, T) of a data set of rows."""

    def __init__(self, cells: Dataset, rows: np.ndarray):
        self.cells, self.rows = cells, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, which: list[int]) -> Minibatch:
        rows = self.rows[which]
        b = self.cells.__getitems__(rows.ravel().tolist())
        return {name: value.unflatten(0, rows.shape) for name, value in b.items()}


def gather(source: str, options: dict) -> Series:
    """As `parts.gather`, of series: `options` have track, time, action and window, None for `WINDOW` or the shortest
    track."""
    cells = parts.gather(source, options, by=options["track"])
    found = read(cells.adata, options)
    short = min(found.tracks, key=lambda name: len(found.tracks[name]))
    n, asked = len(found.tracks[short]), options["window"]
    if n < (least := asked or 2):
        fewer = ", or give a smaller --window" if n > 1 else ""
        raise Refused(f"the track {short!r} has {n} of the {least} rows of a window; remove it{fewer}")
    cells.everyone.dataset.columns["action"] = found.action
    known = vars(cells) | {"levels": {"action": found.told}}
    return Series(**known, tracks=list(found.tracks.values()), window=asked or min(WINDOW, n))


class Found(NamedTuple):
    """Rows in time by track, the time of each row (N,), what led to it (N, A), and the names of that."""

    tracks: dict[str, np.ndarray]
    time: np.ndarray
    action: Tensor
    told: list[str]


def read(cells: ad.AnnData, options: dict) -> Found:
    """The series that the columns of `options` make of cells: track, time, and actions, in obs or obsm. First of what
    led to a row is the time since the row before, 0 for a track's first. Raises `Refused`, one sentence."""
    whose, names = pd.factorize(labels(cells, options["track"]).astype(str))
    time = _numbers(cells, options["time"])[options["time"]]
    order = np.lexsort((time, whose))
    rows = np.split(order, np.flatnonzero(np.diff(whose[order])) + 1)
    since = np.zeros(len(time))
    for name, of in zip(names, rows):
        since[of[1:]] = np.diff(time[of])
        if (twice := since[of[1:]] == 0).any():
            raise Refused(
                f"{options['track']} {name!r} has two rows at {options['time']} {time[of[1:]][twice][0]:g}, and a "
                "track is one cell or culture, seen once at a time; give each its own label"
            )
    told = {"since the row before": since}
    for name in options["action"]:
        told |= _numbers(cells, name, cells.obsm)
    action = torch.from_numpy(np.stack(list(told.values()), 1).astype(np.float32))
    return Found(dict(zip(names, rows)), time, action, list(told))


def largest(batches: Iterable[Minibatch]) -> Tensor:
    """The largest size of each action (A,) in minibatches, the unit in which a model is told it; 1 where all are 0."""
    most = torch.stack([b["action"].abs().amax(0) for b in batches]).amax(0)
    return torch.where(most == 0, 1, most)


def together(b: Minibatch, tracks: list[np.ndarray]) -> Iterator[tuple[Minibatch, Tensor]]:
    """`TOGETHER` tracks at a time: the rows of `b` (N, ...) that they are, (B, T, ...), and their numbers (B, T), -1
    after the end of the shorter ones."""
    for start in range(0, len(tracks), TOGETHER):
        some = [torch.from_numpy(rows) for rows in tracks[start : start + TOGETHER]]
        rows = pad_sequence(some, batch_first=True, padding_value=-1)
        yield {name: value[rows.clamp(min=0)] for name, value in b.items()}, rows


def _numbers(cells: ad.AnnData, name: str, matrices=()) -> dict[str, np.ndarray]:
    """The obs column of this name, or each column (N,) of one of the `matrices`, by what it is called."""
    if name in matrices and name not in cells.obs:
        table = pd.DataFrame(matrices[name], cells.obs_names).add_prefix(f"{name} ")
    else:
        table = column(cells, name).to_frame()
    try:
        values = {of: table[of].to_numpy(float, na_value=np.nan) for of in table}
    except (TypeError, ValueError):
        raise Refused(f"{name!r} holds no numbers; give a column that does, or make numbers of its labels") from None
    if bad := sum((~np.isfinite(value)).sum() for value in values.values()):
        raise Refused(
            f"{name!r} holds {bad} values that are missing or infinite; give an action 0 where nothing was done, and "
            "remove rows without a time"
        )
    return values
