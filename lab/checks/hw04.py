"""Public checks of homework 4, perturbations that nobody has made: one small case each. How good a file is they cannot
say: the cells that judge it are drawn from a seed that stands in the instructor's source alone."""

import functools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from lab import data, perturb
from lab.data.screen import law, perturbations
from lab.errors import Refused

from .public import EMPTY, compare, number, public

# Of the way from the additive prediction to the ceiling, at forty seeds of the judge: the reference .45 to .66, the
# additive shift times a fitted number .17 to .48, times .8 .21 to .35, copies at most .18, means and no change .09,
# what knows the simulator but not the seed at most .76, the cells that judge 1.2 and more.
FULL, HALF, SEEN = 0.45, 0.18, 0.8
SCREEN = {"n_targets": 12, "n_doubles": 66, "n_cells": 8_000, "mix": (0, 0, 1), "control": 0.1, "seed": 6}
EACH, CONTROLS = 100, 400  # cells that judge: of each double, and controls


@public(3)
def q1(by_chance):
    """One other perturbation, all of one number of cells."""
    return number(by_chance(np.ones(1), np.full(1, 50), 50, 50), 0.5)


@public(3)
def q2(others):
    """Two perturbations that do the same."""
    profile = np.array([1.0, 2.0, 4.0])
    return compare(others(np.stack([profile, profile]), np.zeros(3), np.zeros(3)), 1.0, (2,))


@public(3)
def q3(ceiling):
    """Halves without noise."""
    shift, nought = np.array([1.0, -1.0, 2.0]), np.zeros(3)
    return number(ceiling(shift, shift, nought, nought), 1.0)


@public(3)
def q4(discrimination):
    """Right predictions, no target among the genes."""
    return compare(discrimination(np.eye(3), np.eye(3), [[], [], []]), 1.0, (3,))


@public(2)
def q5(energy):
    """Two points beside two others, 3 apart."""
    x = np.zeros((2, 2))
    return number(energy(x, x + [3.0, 0.0], 1), 6.0)


@public(6)
def q6(file):
    """Shape and kind of the numbers, and the bands."""
    if not Path(file).exists():
        return EMPTY
    if complaint := no_profiles(np.load(file)["profiles"]):
        return complaint
    print("q6: marked on unseen cells, on the way from the additive prediction, 0%, to the ceiling, 100%")
    print(f"q6: 6 points from {FULL:.0%}, 3 from {HALF:.0%}, none from {SEEN:.0%}: only seen cells get there")


@functools.cache
def _made() -> tuple[ad.AnnData, list[str]]:
    """The whole screen, and which of its doubles are asked for."""
    cells = data.perturbseq(**SCREEN)
    return cells, list(cells.uns["perturbseq"]["doubles"].index[::2])


def screen() -> tuple[ad.AnnData, list[str]]:
    """Cells to learn from, controls, twelve single perturbations and 33 of their doubles: log-expression in X, counts
    in layers, obs["perturbation"]. And the names of the 33 other doubles, which are asked for."""
    cells, asked = _made()
    known = cells[~cells.obs["perturbation"].isin(asked).to_numpy()]
    obs = pd.DataFrame({"perturbation": known.obs["perturbation"].astype(str), "n_counts": known.obs["n_counts"]})
    return ad.AnnData(known.X, obs, known.var[[]], layers={"counts": known.layers["counts"]}), list(asked)


def unseen(seed: int) -> ad.AnnData:
    """The cells that judge, controls and the doubles that are asked for: what a pair does beyond its parts, and every
    count, are drawn anew from `seed`."""
    cells, asked = _made()
    random, labels = np.random.default_rng(seed), ["control"] * CONTROLS + asked * EACH
    some = cells[random.permutation(cells.n_obs)[: len(labels)]].copy()
    singles, n = cells.uns["perturbseq"]["singles"], SCREEN["n_doubles"]
    pairs = perturbations.doubles(random, singles, cells.varm["shift"], n, 1.0)
    some.uns["perturbseq"]["doubles"], some.varm["epistasis"] = pairs
    some.obs_names, some.obs["perturbation"] = [f"judge {i + 1}" for i in range(len(labels))], labels
    return law.with_counts(some, seed)


def judged(file: str, seed: int) -> float:
    """How far the profiles in `file` come from the additive prediction's mean squared error, 0, to that which the noise
    of the cells that judge leaves, 1. NaN for what are no profiles."""
    profiles = np.load(file, allow_pickle=False)["profiles"].astype(float)
    if no_profiles(profiles):
        return float("nan")
    try:
        table = scores(profiles, seed)
    except Refused:
        return float("nan")
    mse = table[table["metric"] == "MSE"].groupby("row", observed=True)["value"].mean()
    return float((mse["additive"] - mse["model"]) / (mse["additive"] - mse["ceiling"]))


def scores(profiles: np.ndarray, seed: int) -> pd.DataFrame:
    """What `perturb.evaluate` says of mean log-expression (33, 300) of the doubles that are asked for."""
    (known, asked), judge = screen(), unseen(seed)
    a, b = ((cells.obs["perturbation"] == "control").to_numpy() for cells in (known, judge))
    of = pd.DataFrame({"perturbation": asked}, [f"profile {i + 1}" for i in range(len(asked))])
    sides = {"control": known[a], "truth_control": judge[b], "train": known[~a]}
    return perturb.evaluate(ad.AnnData(profiles, of, known.var), judge[~b], **sides, splits=1)


def no_profiles(profiles: np.ndarray) -> str | None:
    """What is wrong with these as mean log-expression, or None."""
    good = profiles.shape == (33, 300) and bool(np.isfinite(profiles).all())
    return None if good else f"profiles are (33, 300) finite numbers; this file holds {profiles.shape}"
