"""The judge's table: who learns from what, which scale, which gaming it is immune to, and what it refuses."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from screens import means, profile, profiles, screen, unchanged

from lab import perturb
from lab.errors import Refused

CONTROL, MEAN = "delta-correlation (control)", "delta-correlation (mean)"


@pytest.fixture(scope="module")
def doubles():
    """Seven singles and three doubles that add up, strong effects; singles are trained on."""
    s = screen(names=[*"ABCDEFG", "A+B", "C+D", "E+F"], effect=0.5, genes=120, seed=1)
    train, s.cells = perturb.hold_out(s.cells, test=["A+B", "C+D", "E+F", "G"])
    return s, train


@pytest.fixture(scope="module")
def judged(doubles):
    s, train = doubles
    predicted = half_of(s)
    return s.judged(predicted, train=train, features=features(s), splits=3)


def half_of(s):
    """Other cells of the same law, as a perfect model would draw."""
    again = screen(names=[*"ABCDEFG", "A+B", "C+D", "E+F"], effect=0.5, genes=120, seed=1, cells=30)
    return renamed(again.cells[again.cells.obs["perturbation"].isin(set(s.cells.obs["perturbation"]))].copy())


def renamed(cells):
    cells.obs_names = [f"drawn {i}" for i in range(cells.n_obs)]
    return cells


def features(s):
    """Which parts a perturbation has: effects are linear in them."""
    parts = sorted({part for name in s.effect.index for part in name.split("+")})
    return pd.DataFrame(
        {part: [int(part in name.split("+")) for name in s.effect.index] for part in parts}, s.effect.index
    )


def test_every_row_and_metric_is_there_for_every_perturbation_and_split(judged):
    table = judged.groupby(["row", "metric"], observed=True)
    assert set(judged["row"]) == set(perturb.ROWS)
    assert set(judged["metric"]) == set(perturb.METRICS) - {"pathway correlation", "pathway sign"}
    for (row, metric), of in table:
        once = row == "model" or metric in ("E-distance", "MMD")
        assert of["split"].nunique() == (1 if once or (row == "ceiling" and metric in perturb.METRICS[:3]) else 3), (
            metric
        )
        assert set(of["perturbation"]) <= {"A+B", "C+D", "E+F", "G"}
        assert not of.duplicated(["perturbation", "split"]).any()
    assert set(judged[judged["row"] == "additive"]["perturbation"]) == {"A+B", "C+D", "E+F"}


def test_strong_effects_are_ranked_as_they_must_be(judged):
    table = perturb.at_a_glance(judged, "mean")
    for metric in (CONTROL, MEAN, "DE direction", "DE overlap"):
        assert table.loc[metric, "additive"] > table.loc[metric, "perturbed-mean"], metric
    assert table.loc["MSE", "additive"] < table.loc["MSE", "no-change"]
    assert table.loc["E-distance", "additive"] < table.loc["E-distance", "no-change"]
    assert table.loc["discrimination", "additive"] == 1
    assert abs(table.loc[CONTROL, "label-permuted"]) < 0.4 < table.loc[CONTROL, "ceiling"]
    assert table.loc["MSE", "ceiling"] < table.loc["MSE"].drop("ceiling").min()


def test_only_what_the_baselines_may_know_moves_them(doubles):
    """Truth replaced by noise: what learns from train says the same."""
    s, train = doubles
    before = s.judged(unchanged(s), train=train, features=features(s), splits=2)
    other = screen(names=[*"ABCDEFG", "A+B", "C+D", "E+F"], effect=0.5, genes=120, seed=9).cells
    other = other[other.obs["perturbation"].isin(["A+B", "C+D", "E+F", "G"])].copy()
    other.obs_names = [f"other {i}" for i in range(other.n_obs)]
    after = perturb.evaluate(
        unchanged(s), other, control=s.a, truth_control=s.b, train=train, features=features(s), splits=2
    )
    one, two = (perturb.at_a_glance(t, "mean").loc[MEAN] for t in (before, after))
    assert one["additive"] > 0.5 and abs(two["additive"]) < 0.5 and one["perturbed-mean"] == two["perturbed-mean"] == 0


def test_the_model_is_judged_on_the_split_that_was_given_and_baselines_on_new_ones_too(doubles):
    s, train = doubles
    one = s.judged(unchanged(s), train=train, features=features(s), splits=3, seed=1)
    two = s.judged(unchanged(s), train=train, features=features(s), splits=3, seed=2)
    one_, two_ = (t[(t["row"] == "additive") & (t["metric"] == CONTROL)] for t in (one, two))
    pick = lambda t, split: t[t["split"] == split]["value"].to_numpy()
    np.testing.assert_allclose(pick(one_, 0), pick(two_, 0), rtol=1e-6)
    assert (pick(one_, 1) != pick(two_, 1)).all() and (pick(one_, 0) != pick(one_, 1)).all()
    again = s.judged(unchanged(s), train=train, features=features(s), splits=3, seed=1)
    pd.testing.assert_frame_equal(one, again)


def test_genes_and_cells_in_another_order_and_dense_or_sparse_are_the_same(doubles):
    s, train = doubles
    how = {"features": features(s), "splits": 2}
    one = s.judged(unchanged(s), train=train, **how)
    order = np.random.default_rng(0).permutation(s.cells.n_vars)
    turned = train[:, order].copy()
    turned.layers["counts"] = turned.layers["counts"].toarray()
    two = s.judged(unchanged(s)[::-1, order].copy(), train=turned, **how)
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-6)


def logged(cells):
    counts = cells.layers["counts"].toarray().astype(float)
    x = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
    return ad.AnnData(x, obs=cells.obs, var=cells.var)


def test_counts_and_what_was_log_normalised_of_them_score_alike_also_of_cells_in_which_every_gene_is_seen(doubles):
    """cell-eval#197, #198: a guess at logarithms, from the sum over genes, took them for none, and ranked fold changes
    wrongly."""
    s, train = doubles
    for cells in (half_of(s), plus_one(half_of(s))):
        one, two = (s.judged(p, train=train, features=features(s), splits=1) for p in (cells, logged(cells)))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-5)


def plus_one(cells):
    cells.layers["counts"] = sparse.csr_matrix(cells.layers["counts"].toarray() + 1)
    return cells


def test_cells_that_are_normalised_all_alike_need_no_counts_anywhere(doubles):
    s, train = doubles
    sides = [logged(c) for c in (half_of(s), s.cells, s.a, s.b, train)]
    one = perturb.evaluate(
        sides[0], sides[1], control=sides[2], truth_control=sides[3], train=sides[4], features=features(s), splits=2
    )
    two = s.judged(half_of(s), train=train, features=features(s), splits=2)
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-5)


def test_cells_cut_to_some_genes_are_normalised_by_their_full_totals_where_all_have_them():
    s, predicted = screen(genes=80, effect=0.3), renamed(screen(genes=80, effect=0.3, cells=20).cells)

    def cut(cells):
        cells.obs["n_counts"] = np.asarray(cells.layers["counts"].sum(1)).ravel()
        return cells[:, ::2].copy()

    s.cells, s.a, s.b, predicted = map(cut, (s.cells, s.a, s.b, predicted))
    x = np.log1p(1e4 * predicted.layers["counts"].toarray() / predicted.obs["n_counts"].to_numpy()[:, None])
    logs = ad.AnnData(x.astype(np.float32), obs=predicted.obs, var=predicted.var)
    one, two = (s.judged(some, splits=1) for some in (predicted, logs))
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-5)


def test_predicted_controls_change_nothing(doubles):
    """cell-eval#183, #196: shifts were taken from the controls that were handed in with the prediction."""
    s, train = doubles
    predicted = half_of(s)
    controls = renamed(s.a.copy())
    controls.layers["counts"] = controls.layers["counts"] * 5
    controls.obs_names = [f"control {i}" for i in range(controls.n_obs)]
    one, two = (
        s.judged(p, train=train, features=features(s), splits=1) for p in (predicted, ad.concat([predicted, controls]))
    )
    a, b = (perturb.at_a_glance(t)["model"] for t in (one, two))
    pd.testing.assert_series_equal(a, b)
    assert any("also holds control" in note for note in two.attrs["notes"])


def test_larger_shifts_do_not_help():
    """Profiles pushed away from all others rank no better, and pay in MSE."""
    s = screen(n=12, effect=0.3, genes=150, cells=40, seed=4)
    noisy = profiles(screen(n=12, effect=0.3, genes=150, cells=8, seed=4).cells)
    loud = profile(s.a) + 2 * (noisy - profile(s.a))
    said = [
        perturb.at_a_glance(s.judged(means(p, s.cells.var_names), splits=1), "mean")["model"] for p in (noisy, loud)
    ]
    assert said[1]["MSE"] > 2 * said[0]["MSE"] and said[1]["discrimination"] <= said[0]["discrimination"] + 0.02


def genes_changed(table):
    """The mean share of genes called changed: what no shift at all has in overlap."""
    return (
        perturb.at_a_glance(table, "mean").loc["DE overlap", "no-change"] if "DE overlap" in set(table["metric"]) else 0
    )


def test_what_differs_between_donors_is_changed_for_cells_and_not_for_pseudobulks_of_donors():
    """Every donor answers in its own way: an effect of the perturbation is what donors have in common."""
    donors, names = range(4), [f"P{i}" for i in range(5)]
    s = screen(names=[f"{name} {d}" for name in names for d in donors], effect=0.6, genes=120, cells=50, controls=100)
    told = s.cells.obs["perturbation"].str.split(" ")
    s.cells.obs["perturbation"], s.cells.obs["donor"] = told.str[0], told.str[1]
    for side in (s.a, s.b):
        side.obs["donor"] = [str(i % 4) for i in range(side.n_obs)]
    by_cells, by_donors = (s.judged(unchanged(s), splits=2, **how) for how in ({}, {"replicate": "donor"}))
    assert genes_changed(by_cells) > 0.2 and genes_changed(by_donors) < 0.05
    note = "DE genes: no replicates given"
    assert any(n.startswith(note) for n in by_cells.attrs["notes"])
    assert not any(n.startswith(note) for n in by_donors.attrs["notes"])


def test_what_donors_have_in_common_is_found_in_their_pseudobulks():
    s = screen(n=6, effect=0.6, genes=120, replicates=4, cells=120, controls=120)
    assert genes_changed(s.judged(unchanged(s), splits=2, replicate="donor")) > 0.2


def test_genes_are_changed_beside_controls_b_alone():
    """A gene that is off in A is none of the perturbation's; the model's shift of it would be right by A's fault."""
    s = screen(genes=80, controls=40)
    predicted = unchanged(s)
    counts = s.a.layers["counts"].toarray()
    counts[:, np.argsort(-counts.sum(0))[:5]] = 0
    s.a.layers["counts"] = sparse.csr_matrix(counts)
    assert genes_changed(s.judged(predicted, splits=1)) == 0


def test_noise_of_donors_is_called_changed_by_cells_and_not_by_donors():
    """Controls of two donors, perturbed cells of two others: what donors differ in is no effect."""
    s = screen(n=4, effect=0.0, genes=150, replicates=4, cells=300, controls=300)
    keep = lambda c, donors: c[c.obs["donor"].isin(donors)].copy()
    s.cells, s.a, s.b = keep(s.cells, ["d0", "d1"]), keep(s.a, ["d2", "d3"]), keep(s.b, ["d2", "d3"])
    assert "DE overlap" in set(s.judged(unchanged(s), splits=1)["metric"]), "genes that differ, which are the donors'"
    with pytest.raises(Refused, match="have no replicate in common"):
        s.judged(unchanged(s), splits=1, replicate="donor")


def test_cells_without_names_of_their_own_are_told_apart_by_what_they_hold():
    """anndata calls them 0, 1, ... in every set."""
    s = screen(genes=80)
    expected = s.judged(unchanged(s), splits=1)
    for side in (s.cells, s.a, s.b):
        side.obs_names = [str(i) for i in range(side.n_obs)]
    pd.testing.assert_frame_equal(expected, s.judged(unchanged(s), splits=1))
    s.b = s.a.copy()
    with pytest.raises(Refused, match="identical cells"):
        s.judged(unchanged(s), splits=1)


def test_controls_among_training_cells_are_no_perturbation_whether_or_not_the_halves_have_labels(doubles):
    s, train = doubles
    how = {"features": features(s), "splits": 2}
    expected = s.judged(unchanged(s), train=train, **how)
    both = ad.concat([train, s.a])
    pd.testing.assert_frame_equal(expected, s.judged(unchanged(s), train=both, **how))
    a, b = s.a.copy(), s.b.copy()
    del a.obs["perturbation"], b.obs["perturbation"]
    said = perturb.evaluate(unchanged(s), s.cells, control=a, truth_control=b, train=both, **how)
    pd.testing.assert_frame_equal(expected, said)


def test_pathways_are_those_given_and_a_model_of_them_agrees():
    s = screen(n=8, effect=0.5, genes=120)
    random = np.random.default_rng(0)
    sets = pd.DataFrame((random.random((120, 12)) < 0.2).astype(int), s.cells.var_names)
    best = means(profiles(screen(n=8, effect=0.5, genes=120, cells=30).cells), s.cells.var_names)
    table = perturb.at_a_glance(s.judged(best, gene_sets=sets, splits=3), "mean")
    assert table.loc["pathway correlation", "model"] > 0.8 and table.loc["pathway sign", "model"] > 0.75
    assert table.loc["pathway sign", "no-change"] == 0.5 and table.loc["pathway correlation", "no-change"] == 0
    assert table.loc["pathway correlation", "ceiling"] > 0.9


def test_means_have_no_distance_between_cells(doubles):
    s, train = doubles
    table = s.judged(unchanged(s), train=train, features=features(s), splits=1)
    assert not {"E-distance", "MMD"} & set(table["metric"])


def test_the_mean_predictor_wins_where_every_perturbation_does_the_same_and_the_model_does_not(doubles):
    s = screen(n=8, effect=0.02, systematic=0.6, genes=120)
    said = perturb.against(s.judged(unchanged(s), splits=1))
    assert said.loc[CONTROL, "verdict"] == "perturbed-mean" and said.loc["MSE", "difference"] < 0
    assert perturb.against(s.judged(unchanged(s), splits=1), "no-change").loc["MSE", "verdict"] == "even"
    with pytest.raises(Refused, match="no row 'additive'"):
        perturb.against(s.judged(unchanged(s), splits=1), "additive")


def test_what_one_mean_wins_is_among_the_notes():
    s = screen(n=8, effect=0.02, systematic=0.6, genes=120)
    said = s.judged(unchanged(s), splits=1).attrs["notes"][-1]
    assert said.startswith("one mean for all perturbations beats the model in: MSE, delta-correlation (control)")
    s = screen(n=1, genes=120)
    assert s.judged(unchanged(s), splits=1).attrs["notes"][-1].endswith("no two on which it stands beside the model")


def test_what_a_model_does_worse_than_the_mean_costs_its_overall_score_nothing():
    s = screen(n=8, effect=0.3, genes=120)
    best = profiles(screen(n=8, effect=0.3, genes=120, cells=30).cells)
    far = best + 1.5 * (best - best.mean())
    said = [perturb.overall(s.judged(means(p, s.cells.var_names), splits=1)) for p in (best, far)]
    assert said[0]["MSE"] > 0.3 and said[1]["MSE"] == 0 and said[1]["overall"] > 0.3
    assert said[1]["overall"] == pytest.approx(said[1].drop("overall").mean())


def test_of_how_many_perturbations_a_row_is_is_counted_and_why_others_are_left_out_is_a_note():
    """Features of target genes: of G0, which is measured, and not of Q; a sum of G1 and Q, of which Q is not known."""
    s = screen(names=["G0", "G1", "G2", "Q", "G0+G1", "G1+Z"], effect=0.4, genes=80)
    train, s.cells = perturb.hold_out(s.cells, test=["G0+G1", "G1+Z", "Q"])
    table = s.judged(unchanged(s), train=train, splits=2)
    judged = perturb.summary(table).loc[CONTROL, "judged"]
    assert judged[["model", "perturbed-mean", "additive", "nearest", "ridge"]].to_list() == [3, 3, 1, 1, 1]
    notes = "\n".join(table.attrs["notes"])
    assert "additive: 1 of 2 combinations have a part that is not known" in notes
    assert "nearest, ridge: 2 of 3 perturbations have no features (such as G1+Z)" in notes


def test_the_picture_has_a_panel_a_metric_and_a_line_a_row(judged):
    figure = perturb.draw(judged)
    titles = [ax.get_title().split(",")[0] for ax in figure.axes if ax.axison]
    assert titles == [m for m in perturb.METRICS if m in set(judged["metric"])]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == perturb.ROWS[::-1]


def test_held_out_perturbations_are_whole_and_a_pair_is_one_in_either_order():
    s = screen(names=["A", "B", "A+B", "B+A", "C"])
    for seed in range(6):
        parts = perturb.hold_out(s.cells, test=0.5, seed=seed)
        sides = [{"+".join(sorted(name.split("+"))) for name in part.obs["perturbation"]} for part in parts]
        assert not sides[0] & sides[1] and len(sides[0]) == len(sides[1]) == 2
    with pytest.raises(Refused, match="leaves a part empty"):
        perturb.hold_out(s.cells, test=0.01)


def joined_with(side, from_, n=5):
    return lambda s: setattr(s, side, ad.concat([getattr(s, side), getattr(s, from_)[:n]]))


def copied(side, from_, n=5):
    """Cells of one set under new names in another."""

    def make(s):
        extra = renamed(getattr(s, from_)[:n].copy())
        extra.obs["perturbation"] = getattr(s, side).obs["perturbation"].iloc[0]
        setattr(s, side, ad.concat([getattr(s, side), extra]))

    return make


def of(predicted):
    return lambda s: {"predicted": predicted(s)}


def spoiled(value, row=3):
    def make(s):
        p = unchanged(s)
        p.X[row] = value(p.X[row])
        return p

    return make


def rescaled(f):
    def make(s):
        p = unchanged(s)
        p.X = f(p.X)
        return p

    return of(make)


def cells_mixed(s):
    """Log-normalised cells, a few of them counts: the exploit of cell-eval#204."""
    p = renamed(s.cells.copy())
    counts = np.roll(p.layers["counts"].toarray(), 1, 0)
    p = logged(ad.AnnData(obs=p.obs, var=p.var, layers={"counts": sparse.csr_matrix(counts)}))
    p.X[::7] = counts[::7]
    return p


def relabelled(side, name):
    def make(s):
        getattr(s, side).obs["perturbation"] = name
        return {}

    return make


def relabelled_cells(s, name):
    cells = renamed(s.cells)
    cells.obs["perturbation"] = name
    return cells


def without_a_label(s):
    p = unchanged(s)
    p.obs["perturbation"] = [None, *p.obs["perturbation"][1:]]
    return p


def as_perturbed(s, cells):
    names = sorted(set(s.cells.obs["perturbation"]))
    p = renamed(cells.copy())
    p.obs["perturbation"] = [names[i % len(names)] for i in range(p.n_obs)]
    return p


REFUSED = {  # what is wrong: (what is done to a screen, which returns arguments; words of the sentence)
    "controls in both halves": (joined_with("b", "a"), "control and truth_control share 5"),
    "the same controls under other names": (copied("b", "a"), "control and truth_control hold 5 identical"),
    "control cells among the truth": (copied("cells", "a"), "control and truth hold 5 identical"),
    "truth that holds controls": (joined_with("cells", "b"), "labelled 'control', as controls are"),
    "truth that holds controls by another name": (copied("cells", "b"), "truth_control and truth hold 5"),
    "truth labelled as controls": (relabelled("cells", "control"), "labelled 'control', as controls are"),
    "train that holds judged cells": (lambda s: {"train": s.cells}, "train and truth share"),
    "train that holds a judged perturbation": (
        lambda s: {"train": renamed(screen(n=3, seed=5, genes=80).cells)},
        "3 of the perturbations that are judged stand in the training set (first: 'P0')",
    ),
    "train that holds a judged pair in the other order": (
        lambda s: relabelled("cells", "P0+P1")(s) | {"train": relabelled_cells(screen(n=1, seed=5, genes=80), "P1+P0")},
        "stand in the training set (first: 'P0+P1')",
    ),
    "train that holds controls B": (lambda s: {"train": s.b}, "train and truth_control share"),
    "a prediction that is the truth": (of(lambda s: renamed(s.cells.copy())), "predicted and truth hold 480 identical"),
    "a prediction made of controls B": (of(lambda s: as_perturbed(s, s.b)), "predicted and truth_control hold 60"),
    "a perturbation that was not predicted": (of(lambda s: unchanged(s)[1:].copy()), "predicted lacks 1 of the 8"),
    "a gene that was not predicted": (of(lambda s: unchanged(s)[:, 1:].copy()), "other genes ('G0' is missing)"),
    "a column that is missing": (lambda s: {"by": "target"}, "no column 'target'"),
    "a label that is missing": (of(without_a_label), "obs['perturbation'] is missing for 1 of 8 cells"),
    "no replicate column": (lambda s: {"replicate": "mouse"}, "no column 'mouse'"),
    "NaN in a prediction": (of(spoiled(lambda x: x * np.nan)), "NaN"),
    "one row of counts among logarithms": (of(spoiled(lambda x: np.round(x * 9))), "two scales in one matrix"),
    "one row ten times as large": (of(spoiled(lambda x: x * 10)), "are no log1p of counts per 10,000"),
    "cells that are counts among logarithms": (of(cells_mixed), "rows of predicted hold whole numbers and the others"),
    "a prediction per million": (rescaled(lambda x: np.log1p(100 * np.expm1(x))), "no log1p of counts per 10,000"),
    "a prediction that was scaled": (rescaled(lambda x: x - x.mean()), "another scale"),
    "a prediction in which nothing is expressed": (rescaled(lambda x: x * 0.01), "another scale"),
    "counts that are fractions": (
        of(lambda s: ad.AnnData(layers={"counts": unchanged(s).X}, obs=unchanged(s).obs, var=unchanged(s).var)),
        "holds fractions",
    ),
    "one row of counts a perturbation": (
        of(lambda s: ad.AnnData(np.round(50 * unchanged(s).X), obs=unchanged(s).obs, var=unchanged(s).var)),
        "one row of counts a perturbation",
    ),
    "gene sets of other genes": (
        lambda s: {"gene_sets": pd.DataFrame(np.eye(3), list("xyz"))},
        "0 of the 3 gene sets have a gene in common",
    ),
    "features that hold NaN": (
        lambda s: {"features": pd.DataFrame({"f": [np.nan] * 8}, s.effect.index)},
        "features are one finite row",
    ),
    "three cells of a perturbation": (lambda s: setattr(s, "cells", s.cells[57:].copy()), "P0 has fewer than 4"),
    "three control cells": (lambda s: setattr(s, "a", s.a[:3].copy()), "has fewer than 4 cells"),
    "no splits": (lambda s: {"splits": 0}, "splits=0"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_could_give_a_wrong_number_is_refused_in_a_sentence(wrong):
    spoil, words = REFUSED[wrong]
    s = screen(genes=80)
    how = dict(spoil(s) or {})
    predicted = how.pop("predicted", None)
    with pytest.raises(Refused) as said:
        s.judged(unchanged(s) if predicted is None else predicted, **({"splits": 1} | how))
    assert words in str(said.value) and "\n" not in str(said.value)


def test_logs_of_means_are_noticed():
    """A mean of logarithms is less than the logarithm of the mean where cells are sparse."""
    s = screen(genes=120, depth=150, effect=0.3)
    counts = {name: s.cells[s.cells.obs["perturbation"] == name].layers["counts"].toarray() for name in s.effect.index}
    logs = pd.DataFrame(
        {n: np.log1p(1e4 * c.mean(0) / c.mean(0).sum()) for n, c in counts.items()}, s.cells.var_names
    ).T
    assert any("logs of means" in n for n in s.judged(means(logs, s.cells.var_names), splits=1).attrs["notes"])
    right = s.judged(means(profiles(s.cells), s.cells.var_names), splits=1)
    assert not any("logs of means" in n for n in right.attrs["notes"])
