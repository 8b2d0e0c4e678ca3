"""The judge on real screens, subsets that LAB_DATA holds: what shared controls add, and what is left without them."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screens import Screen, means

from lab import data, perturb
from lab.data.prepare import log_normalise
from lab.perturb import scores

pytestmark = pytest.mark.real
CONTROL = "delta-correlation (control)"


def parted(every, least=1, seed=0):
    """The perturbed cells of a screen, of perturbations with `least` cells or more, and its controls in two halves."""
    size = every.obs["perturbation"].value_counts()
    enough = every.obs["perturbation"].isin(size.index[size >= least]).to_numpy()
    is_control = every.obs["control"].to_numpy()
    a, b = perturb.control_halves(every[is_control].copy(), seed=seed)
    return Screen(every[enough & ~is_control].copy(), a, b, None)


def profiles(some):
    total = some.obs["n_counts"] if "n_counts" in some.obs else np.asarray(some.layers["counts"].sum(1)).ravel()
    x, of = log_normalise(some.layers["counts"], total).toarray(), some.obs["perturbation"].to_numpy()
    return pd.DataFrame({name: x[of == name].mean(0) for name in sorted(set(of))}, some.var_names).T


def shared(s):
    """Median delta-correlation of the mean of the others where all shifts are from all controls."""
    t, every = profiles(s.cells), ad.concat([s.a, s.b])
    every.obs["perturbation"] = "control"
    c = profiles(every).to_numpy()
    rest = (t.to_numpy().sum(0) - t.to_numpy()) / (len(t) - 1)
    return np.median(scores.correlation(rest - c, t.to_numpy() - c))


def unchanged(s):
    a = profiles(s.a).to_numpy()
    names = sorted(set(s.cells.obs["perturbation"]))
    return means(pd.DataFrame(np.tile(a, (len(names), 1)), names, s.cells.var_names), s.cells.var_names)


@pytest.fixture(scope="module")
def norman():
    s = parted(data.norman())
    return s, s.judged(unchanged(s))


@pytest.fixture(scope="module")
def papalexi():
    s = parted(data.papalexi(), least=200)
    return s, s.judged(unchanged(s), replicate="batch")


def test_norman_of_its_perturbed_mean_more_than_half_is_the_controls(norman):
    """.576 with controls shared, .26 without, of which a tenth is which half of 100 controls."""
    s, table = norman
    assert shared(s) == pytest.approx(0.575, abs=0.005)
    line = perturb.summary(table).loc[(CONTROL, "perturbed-mean")]
    over_splits = table[(table["metric"] == CONTROL) & (table["row"] == "perturbed-mean")]
    medians = over_splits.groupby("split")["value"].median()
    assert medians.mean() == pytest.approx(0.263, abs=3 * medians.std() / np.sqrt(len(medians)))
    assert 0.05 < line["spread"] < 0.2


def test_norman_five_doubles_add_up_as_far_as_was_measured(norman):
    s, _ = norman
    doubles = ["KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2"]
    train, test = perturb.hold_out(s.cells, test=doubles)
    judged = Screen(test, s.a, s.b, None)
    table = judged.judged(unchanged(judged), train=train)
    of = table[(table["metric"] == CONTROL) & (table["row"] == "additive")]
    each = of.groupby("perturbation")["value"].agg(["mean", "std"]).sort_values("mean")
    apart = each["mean"] - [0.30, 0.33, 0.86, 0.91, 0.94]  # from as many other splits
    assert (apart.abs() < 3 * each["std"] * np.sqrt(2 / 20) + 0.01).all() and each["std"].iloc[:2].min() > 0.05
    assert perturb.at_a_glance(table, "mean").loc["discrimination", "additive"] > 0.6


def test_norman_labels_dealt_among_all_cells_leave_nothing(norman):
    table = norman[1]
    null = table[(table["row"] == "label-permuted") & (table["metric"] == CONTROL)].groupby("split")["value"].mean()
    assert abs(null.mean()) < 3 * null.std() / np.sqrt(len(null))


def test_papalexi_of_its_perturbed_mean_nothing_is_left_without_shared_controls(papalexi):
    s, table = papalexi
    assert s.cells.obs["perturbation"].nunique() == 23
    assert shared(s) == pytest.approx(0.204, abs=0.002)
    medians = (
        table[(table["metric"] == CONTROL) & (table["row"] == "perturbed-mean")].groupby("split")["value"].median()
    )
    assert medians.mean() == pytest.approx(0.043, abs=3 * medians.std() / np.sqrt(len(medians)))


def test_papalexi_the_shared_number_hangs_on_the_scale_and_on_which_targets(papalexi):
    """.177 was measured over all 25 targets of counts scaled to the median total; 23 per 10,000 have .204."""
    raw = data.papalexi()
    counts, of = raw.layers["counts"].toarray().astype(float), raw.obs["perturbation"].astype(str).to_numpy()
    totals, size = counts.sum(1), raw.obs["perturbation"].value_counts()
    found = {}
    for scale, few in ((1e4, 200), (1e4, 1), (np.median(totals), 200), (np.median(totals), 1)):
        x = np.log1p(scale * counts / totals[:, None])
        t = np.array([x[of == name].mean(0) for name in sorted(size.index[size >= few]) if name != "control"])
        c, rest = x[of == "control"].mean(0), (t.sum(0) - t) / (len(t) - 1)
        found[scale == 1e4, len(t)] = np.median(scores.correlation(rest - c, t - c))
    expected = {(True, 23): 0.204, (True, 25): 0.187, (False, 23): 0.186, (False, 25): 0.177}
    assert found == pytest.approx(expected, abs=0.001)


def test_papalexi_ridge_speaks_of_nine_targets_and_the_mean_has_as_much_on_these(papalexi):
    s, table = papalexi
    each = (
        table[table["metric"] == CONTROL].groupby(["row", "perturbation"], observed=True)["value"].mean().unstack("row")
    )
    ridge = each["ridge"].dropna()
    assert {"IFNGR2", "JAK2", "STAT1", "STAT2"} < set(ridge.index) and len(ridge) == 9
    assert abs(ridge.median() - each.loc[ridge.index, "perturbed-mean"].median()) < 0.02
    assert any("14 of 23 perturbations have no features" in note for note in table.attrs["notes"])


def test_papalexi_strong_targets_have_a_ceiling_and_most_others_next_to_none(papalexi):
    s, table = papalexi
    bound = table[(table["row"] == "ceiling") & (table["metric"] == CONTROL)].set_index("perturbation")["value"]
    assert (bound[["IFNGR1", "IFNGR2", "JAK2", "STAT1", "SMAD4"]] > 0.9).all()
    assert bound.fillna(0).drop(["IFNGR1", "IFNGR2", "JAK2", "STAT1", "SMAD4", "IRF1", "CUL3", "STAT2"]).median() < 0.6


def test_papalexi_three_replicates_find_the_targets_with_an_effect(papalexi):
    s, table = papalexi
    judged = table[(table["row"] == "no-change") & (table["metric"] == "DE overlap")]
    often = judged["perturbation"].value_counts()
    assert {"IFNGR1", "IFNGR2", "JAK2", "STAT1"} <= set(often[often == 20].index)


CORRELATED = "no-change", "perturbed-mean", "additive", "ridge"


def standing(every, least, seed, splits=8, n_pathways=None):
    """Mean delta-correlation of each row over (all perturbations, those that it has in common with additive, with
    ridge), each the mean of its splits. Ridge's features are of the control cells, or of gene sets."""
    s = parted(every, least, seed)
    features = None if n_pathways is None else pathways(sorted(set(s.cells.obs["perturbation"])), n_pathways)
    table = s.judged(unchanged(s), splits=splits, seed=seed, features=features)
    wide = table[table["metric"] == CONTROL].pivot_table("value", "perturbation", "row", observed=True)
    wide = wide.reindex(columns=list(CORRELATED))
    return [of.mean() for of in (wide, wide[wide["additive"].notna()], wide[wide["ridge"].notna()])]


def pathways(names, n):
    """Where targets stand in the first `n` components of their membership in Reactome's and the Hallmark sets."""
    genes = sorted({gene for name in names for gene in name.split("+")})
    files = [Path(os.environ["LAB_DATA"], f"gene_sets/human_{of}_v2025.gmt") for of in ("reactome", "hallmark")]
    member = np.hstack([data.programmes(genes, file=file, min_genes=2).to_numpy(float) for file in files])
    member /= np.linalg.norm(member, axis=1, keepdims=True).clip(1)  # a gene in many sets weighs as much as one in few
    u, size, _ = np.linalg.svd(member - member.mean(0), full_matrices=False)
    of = pd.DataFrame((u * size)[:, :n], genes)
    return pd.DataFrame({name: of.loc[name.split("+")].sum() for name in names}).T


@pytest.fixture(scope="module")
def simulated():
    return [standing(data.perturbseq("small", seed=seed), 20, seed) for seed in range(3)]


def test_rows_stand_on_norman_as_on_the_simulator(simulated):
    """The mean of the others above no change, and on pairs the sum of their parts above the mean, for each of three
    halvings of the controls and for each of three simulated screens. (Ridge says nothing on Norman: one target is among
    the 500 genes. By MSE the two do not agree: there the sum has a fifth of the mean's error, here about as much.)"""
    for every, pairs, _ in [standing(data.norman(), 4, seed) for seed in range(3)] + simulated:
        assert every["perturbed-mean"] > 0.05 > every["no-change"] == 0
        assert pairs["additive"] > pairs["perturbed-mean"] + 0.05


def test_rows_stand_on_papalexi_as_on_the_simulator(simulated):
    """The mean above no change. Ridge above the mean in the simulator's knock-downs; in Papalexi it is level or above
    on the nine targets whose gene is among the 299 (six halvings: 0 to .05, 1 s.e. over targets .02 to .04). (Of
    simulated knock-outs, whose mRNA stays, ridge learns nothing in three screens of four, and is the mean.)"""
    for every, _, _ in (real := [standing(data.papalexi(), 200, seed) for seed in range(3)]) + simulated:
        assert every["perturbed-mean"] > 0.05 > every["no-change"] == 0
    assert all(described["ridge"] > described["perturbed-mean"] + 0.02 for _, _, described in simulated)
    assert all(-0.02 < described["ridge"] - described["perturbed-mean"] < 0.07 for _, _, described in real)


@pytest.mark.parametrize("screen, least, gains", [("papalexi", 200, (0.028, 0)), ("norman", 4, (0.014, 0.118))])
def test_ridge_on_what_gene_sets_say_of_targets_stands_above_the_mean_or_level_as_on_the_simulator(
    screen, least, gains
):
    """Then it speaks of all targets: by four or ten components of their gene sets (2 s.e. over targets: .03 on
    Papalexi, .06 and .08 on Norman)."""
    for n, gain in zip((4, 10), gains):
        for seed in range(3):
            every, _, described = standing(getattr(data, screen)(), least, seed, n_pathways=n)
            assert every["perturbed-mean"] == pytest.approx(described["perturbed-mean"])
            assert described["ridge"] - described["perturbed-mean"] == pytest.approx(gain, abs=0.01)
