"""The report on perturbations: nothing is found where nothing was done, and what was done is ranked."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lab import data, synth
from lab.errors import Refused


@pytest.fixture(scope="module")
def screen():
    return data.perturbseq(n_cells=6000, n_doubles=0)


def test_where_nothing_was_done_every_column_is_null():
    idle = data.perturbseq(n_cells=8000, n_targets=30, n_doubles=0, effect=0, systematic=0)
    table = synth.perturbation_report(idle)
    assert len(table) == 30 and table["genes"].max() <= 2 and table["genes"].mean() < 0.5
    for column in ("reliability", "with_mean"):
        assert abs(table[column].mean()) < 3 * max(table[column].std() / np.sqrt(30), 0.02), column


def test_a_perturbation_is_not_among_its_own_others():
    """Of four, it would be a quarter of the mean, and correlate with it by about a half."""
    few = {"n_targets": 4, "n_doubles": 0, "control": 0.7, "n_cells": 3000, "effect": 0, "systematic": 0}
    found = [synth.perturbation_report(data.perturbseq(seed=seed, **few))["with_mean"].mean() for seed in range(3)]
    assert abs(np.mean(found)) < 0.15


def test_controls_that_both_shifts_share_would_make_noise_correlate(screen):
    """What the disjoint halves are for: without effect, shifts from one control mean correlate by the mean's noise."""
    idle = data.perturbseq(n_cells=8000, n_targets=30, n_doubles=0, effect=0, systematic=0, control=0.03)
    x, label = idle.X.toarray(), idle.obs["perturbation"]
    control = x[label == "control"].mean(0)
    shifts = np.array([x[label == name].mean(0) - control for name in label.cat.categories[1:]])
    shared = [np.corrcoef(np.delete(shifts, i, 0).mean(0), shifts[i])[0, 1] for i in range(30)]
    assert np.median(shared) > 0.5 > 0.15 > synth.perturbation_report(idle)["with_mean"].median()


def test_stronger_perturbations_have_larger_norms_more_genes_and_reliable_halves(screen):
    table, singles = synth.perturbation_report(screen), screen.uns["perturbseq"]["singles"]
    true = [
        np.linalg.norm(np.log1p(data.truth(screen, name)).diff(axis=1)["perturbed"].to_numpy()) for name in table.index
    ]
    for column in ("norm", "reliability", "genes"):
        assert stats.spearmanr(table[column], true).statistic > 0.8, column
    large = np.array(true) > 1  # below, halves of a hundred cells say little
    np.testing.assert_allclose(table["norm"][large], np.array(true)[large], rtol=0.25)
    strong = singles["class"] == "strong"
    assert table.loc[strong[strong].index, "reliability"].min() > 0.6
    assert list(table["cells"]) == list(screen.obs["perturbation"].value_counts()[table.index])


def test_the_mean_of_others_predicts_a_shift_as_far_as_they_share_one():
    median = [
        synth.perturbation_report(data.perturbseq(n_cells=6000, n_doubles=0, systematic=s))["with_mean"].median()
        for s in (0, 0.3, 1)
    ]
    assert median[0] < 0.5 and np.all(np.diff(median) > 0) and median[-1] > 0.9


def test_too_few_controls_or_perturbations_are_refused(screen):
    with pytest.raises(
        Refused, match="0 cells are labelled 'ctrl', and 11 perturbations have 40; it takes 40 controls"
    ):
        synth.perturbation_report(screen, control="ctrl")
    with pytest.raises(Refused, match="and 0 perturbations have 5000; .* or lower min_cells"):
        synth.perturbation_report(screen, min_cells=5000)
    with pytest.raises(Refused, match="obs has no column 'perturbation'"):
        without = screen.copy()
        del without.obs["perturbation"]
        synth.perturbation_report(without)


@pytest.mark.real
def test_perturbations_in_papalexis_design_are_as_strong_and_as_rare_as_papalexis():
    real = data.papalexi()
    real = real[np.asarray(real.layers["counts"].sum(1)).ravel() > 0].copy()
    known = synth.measured(real[real.obs["control"]].copy())
    how = {"n_targets": 25, "n_doubles": 0, "n_cells": real.n_obs, "control": 0.115, "screen": "knockout", **known}
    tables = [synth.perturbation_report(real, min_cells=200)]
    for seed in range(3):
        like = data.perturbseq(seed=seed, **how)
        like = like[(like.obs["n_counts"] > 0).to_numpy()].copy()
        tables.append(synth.perturbation_report(like, min_cells=200))
    said = pd.DataFrame(
        {
            "norm, median": [t["norm"].median() for t in tables],
            "norm, 90 %": [t["norm"].quantile(0.9) for t in tables],
            "reliable": [(t["reliability"] > 0.4).mean() for t in tables],
            "with mean": [t["with_mean"].median() for t in tables],
        },
        index=["Papalexi", "seed 0", "seed 1", "seed 2"],
    )
    print(said.round(2))
    simulated = said.iloc[1:].mean()
    assert 0.5 < simulated["norm, median"] / said.loc["Papalexi", "norm, median"] < 2
    assert 0.6 < simulated["norm, 90 %"] / said.loc["Papalexi", "norm, 90 %"] < 1.6
    assert abs(simulated["reliable"] - said.loc["Papalexi", "reliable"]) < 0.15
    assert 0.04 - 0.1 < simulated["with mean"] < 0.26 + 0.1  # between Papalexi's .04 and the Norman subset's .26
