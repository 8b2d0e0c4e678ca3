"""What the judge says of noise, of halves of the truth and of a perfect model: closed forms."""

import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screens import Screen, means, profile, profiles, redealt, screen, unchanged

from lab import data, metrics, perturb
from lab.perturb import scores

CONTROL, MEAN = "delta-correlation (control)", "delta-correlation (mean)"


def correlated(x, y):
    return scores.correlation(x[None], y[None])[0]


@pytest.mark.parametrize("k", [1, 4, 20])
def test_controls_that_both_shifts_share_make_noise_correlate_as_the_formula_says_and_halves_do_not(k):
    """A mean of k others and an additive prediction, of nothing but noise with as many controls as treated cells."""
    random = np.random.default_rng(0)
    t, c, a, b = random.normal(size=(4, 200_000))
    others = random.normal(size=(k, 200_000)).mean(0)
    one, two = random.normal(size=(2, 200_000))
    assert correlated(others - c, t - c) == pytest.approx(1 / math.sqrt(2 * (1 + 1 / k)), abs=0.01)
    assert correlated(one + two - 2 * c, t - c) == pytest.approx(1 / math.sqrt(3), abs=0.01)  # 2 / sqrt(6 * 2)
    assert abs(correlated(others - a, t - b)) < 0.01 and abs(correlated(one + two - 2 * a, t - b)) < 0.01


def test_splitting_after_a_prediction_was_made_from_all_controls_does_not_repair_it():
    """No change, from all controls, then scores -.58 on noise: with equal n, halves have twice the variance."""
    random = np.random.default_rng(0)
    t, a, b = random.normal(size=(3, 200_000)) * np.array([1, math.sqrt(2), math.sqrt(2)])[:, None]
    assert correlated((a + b) / 2 - a, t - b) == pytest.approx(-1 / math.sqrt(3), abs=0.01)


def test_ceiling_is_what_a_prediction_without_noise_scores_and_the_usual_formula_is_too_high():
    """Equal n, split-half r .5."""
    random, genes = np.random.default_rng(1), 400_000
    c_a, c_b = random.normal(size=(2, genes)) * math.sqrt(2)  # halves of the controls
    shift = 2 * random.normal(size=genes)
    t1, t2 = shift + random.normal(size=(2, genes)) * math.sqrt(2)
    t = (t1 + t2) / 2
    assert correlated(t1 - c_a, t2 - c_b) == pytest.approx(0.5, abs=0.01)
    covariance, variance = scores.ceiling(*(x[None] for x in (t1, t2, t, c_a, c_b)))
    formula = math.sqrt(covariance[0] / variance[0])
    assert formula == pytest.approx(0.756, abs=0.004) == pytest.approx(correlated(shift, t - c_b), abs=0.004)
    assert correlated(shift, t - (c_a + c_b) / 2) == pytest.approx(
        math.sqrt(2 * 0.5 / 1.5), abs=0.004
    )  # .816, of T - C


@pytest.fixture(scope="module")
def nulls():
    """Twelve screens in which nothing does anything, each a draw of its own; half with a training set."""
    tables = []
    for seed in range(12):
        s = screen(n=10, names=[*(f"P{i}" for i in range(7)), "P0+P1", "P2+P3", "P4+P5"], seed=seed, genes=150)
        told = seed % 2 == 1
        how = {}
        if told:
            train, s.cells = perturb.hold_out(s.cells, test=["P0+P1", "P2+P3", "P4+P5", "P6"])
            how = {"train": train}
        features = pd.DataFrame(np.random.default_rng(seed).normal(size=(10, 3)), s.effect.index)
        tables.append(s.judged(unchanged(s), features=features, splits=6, **how).assign(screen=seed))
    return pd.concat(tables)


def z(table):
    """The mean over screens in standard errors between screens, which are independent as perturbations are not."""
    each = table.groupby("screen")["value"].mean()
    return 0 if abs(each.mean()) < 1e-9 else each.mean() / (each.std() / math.sqrt(len(each)))


@pytest.mark.parametrize("row", ["no-change", "perturbed-mean", "additive", "nearest", "ridge", "label-permuted"])
@pytest.mark.parametrize("metric", [CONTROL, MEAN])
def test_on_noise_every_row_correlates_with_nothing(nulls, row, metric):
    table = nulls[(nulls["row"] == row) & (nulls["metric"] == metric)]
    assert len(table)
    if (table["value"] == 0).all():
        assert (row, metric) in {("no-change", CONTROL), ("perturbed-mean", MEAN), ("label-permuted", MEAN)}, (
            "by definition"
        )
    else:
        assert abs(z(table)) < 3, table.groupby("screen")["value"].mean()


def test_on_noise_shared_controls_would_have_shown_a_correlation(nulls):
    """The same screens, both shifts from all controls: what the rows above are spared."""
    seen = []
    for seed in range(4):
        s = screen(n=10, seed=seed, genes=150)
        t, c = profiles(s.cells).to_numpy(), (profile(s.a) + profile(s.b)) / 2
        rest = (t.sum(0) - t) / 9
        seen.append(scores.correlation(rest - c, t - c).mean())
    k, r = 9, 0.5  # with r treated cells for each control: r / sqrt((1 + r)(1 / k + r))
    assert np.mean(seen) == pytest.approx(r / math.sqrt((1 + r) * (1 / k + r)), abs=0.05)


@pytest.mark.parametrize("n", [50, 100, 400])
def test_on_a_simulated_screen_that_does_nothing_no_number_of_cells_gives_any_row_a_score(n):
    """The rule by which an evaluator is stopped: `perturbseq` without effects, 12 seeds, n cells a perturbation."""
    tables = []
    for seed in range(12):
        how = {"n_targets": 6, "n_doubles": 3, "control": 0.25, "mix": (0, 1, 0), "effect": 0, "systematic": 0}
        cells = data.perturbseq(n_cells=28 * n + 200, seed=seed, **how)
        of = cells.obs.groupby("perturbation", observed=True).cumcount()
        cells = cells[(of < n * (1 + cells.obs["control"])).to_numpy()].copy()
        control = cells.obs["control"].to_numpy()
        s = Screen(cells[~control].copy(), *perturb.control_halves(cells[control].copy(), seed=seed), None)
        assert (s.cells.obs["perturbation"].value_counts().loc[lambda count: count > 0] == n).all()
        tables.append(s.judged(unchanged(s), splits=2).assign(screen=seed))
    table = pd.concat(tables)
    for metric in (CONTROL, MEAN):
        for row in ("no-change", "perturbed-mean", "additive", "nearest", "ridge", "label-permuted"):
            of = table[(table["row"] == row) & (table["metric"] == metric)]
            assert of["screen"].nunique() == 12 and abs(z(of)) < 3, (metric, row, of.groupby("screen")["value"].mean())


@pytest.mark.parametrize("row", ["perturbed-mean", "nearest", "ridge", "additive"])
def test_on_noise_discrimination_is_chance(nulls, row):
    table = nulls[(nulls["row"] == row) & (nulls["metric"] == "discrimination")]
    n = 4  # judged: one prediction for all has this mean, whichever it is
    assert len(table) and abs(z(table.assign(value=table["value"] - (n + 1) / (2 * n)))) < 3


def test_labels_dealt_anew_leave_no_row_anything_where_effects_are_large():
    found = []
    for seed in range(8):
        s = redealt(screen(effect=0.7, systematic=0.7, seed=seed, genes=150), seed)
        table = s.judged(unchanged(s), splits=4)
        found.append(table[(table["row"] == "perturbed-mean") & (table["metric"] == CONTROL)].assign(screen=seed))
    assert abs(z(pd.concat(found))) < 3


def test_labels_dealt_among_perturbed_cells_alone_keep_the_systematic_shift():
    """Why the null deals over all cells: among perturbed ones every label still has the shift of being perturbed."""
    s = screen(effect=0.0, systematic=0.5, cells=100, controls=100)
    table = perturb.summary(s.judged(unchanged(s), splits=4))["median"]
    assert table[CONTROL, "perturbed-mean"] > 0.6 and abs(table[CONTROL, "label-permuted"]) < 0.3


def test_a_shift_that_is_the_same_everywhere_scores_nothing():
    s = screen(effect=0.5)
    flat = means(pd.DataFrame(profile(s.a) + np.zeros((8, 1)), s.effect.index, s.cells.var_names), s.cells.var_names)
    flat.X += 0.25
    table = perturb.at_a_glance(s.judged(flat, splits=2))
    assert table.loc[CONTROL, "model"] == 0


def test_a_half_of_the_truth_is_as_far_from_the_other_as_samples_of_one_law_are():
    apart, squared = [], []
    for seed in range(6):
        s = screen(n=5, effect=0.5, cells=80, genes=100, seed=seed)
        half = np.arange(s.cells.n_obs) % 2 == 0
        predicted, s.cells = s.cells[half].copy(), s.cells[~half].copy()
        table = s.judged(predicted, splits=1)
        for name, found in (("E-distance", apart), ("MMD", squared)):
            found.append(table[(table["row"] == "model") & (table["metric"] == name)].assign(screen=seed))
    assert abs(z(pd.concat(apart))) < 3 and abs(z(pd.concat(squared))) < 3


def test_energy_distance_sees_two_peaks_with_the_mean_of_one_and_its_squared_variant_does_not():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 10))
    y = random.normal(size=(400, 10))
    y[:, 0] = random.choice([-2.5, 2.5], 400) + 0.5 * random.normal(size=400)
    wide = random.normal(size=(400, 10)) * np.array([3.0] + [1.0] * 9)

    def squared(x, y):
        """2 E|X - Y|^2 - E|X - X'|^2 - E|Y - Y'|^2 = 2 |difference of means|^2, unbiased."""
        mean = np.square(x.mean(0) - y.mean(0)).sum()
        return 2 * (mean - x.var(0, ddof=1).sum() / len(x) - y.var(0, ddof=1).sum() / len(y))

    noise = np.std([squared(random.normal(size=(400, 10)), random.normal(size=(400, 10))) for _ in range(30)])
    for other in (y, wide):
        assert metrics.energy_distance(x, other) > 0.1
        assert abs(squared(x, other)) < 8 * noise  # wider laws have noisier means
    assert metrics.energy_distance(x, wide) == pytest.approx(0.15, abs=0.05)


def test_distances_in_evaluate_see_a_mixture_that_its_means_do_not():
    """Predicted cells all half responders, true cells half of them responders: one mean."""
    random, genes = np.random.default_rng(0), 60
    names = [f"G{i}" for i in range(genes)]
    up = np.r_[np.ones(10), np.zeros(genes - 10)]

    def cells(shift, tag):
        x = 1 + 0.2 * random.normal(size=(len(shift), genes)) + shift[:, None] * up
        obs = pd.DataFrame({"perturbation": ["P"] * (len(x) // 2) + ["Q"] * (len(x) - len(x) // 2)}, dtype=str)
        obs.index = [f"{tag}{i}" for i in range(len(x))]
        return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=names))

    truth, even = cells(random.choice([0.0, 1.0], 200), "t"), cells(np.full(200, 0.5), "e")
    alike = cells(random.choice([0.0, 1.0], 200), "m")
    a, b = (cells(np.zeros(100), side) for side in "ab")
    for side in (a, b):
        side.obs["perturbation"] = "control"
    said = {
        name: perturb.at_a_glance(perturb.evaluate(p, truth, control=a, truth_control=b, splits=2))["model"]
        for name, p in (("even", even), ("alike", alike))
    }
    assert abs(said["even"]["MSE"] - said["alike"]["MSE"]) < 0.01
    assert said["even"]["E-distance"] > 0.2 and abs(said["alike"]["E-distance"]) < 0.05


def test_a_perfect_model_reaches_the_ceiling_of_correlation_and_of_mse():
    """The noise-free means are those of very many cells of the same law."""
    s = screen(n=6, effect=0.35, cells=60, controls=60, genes=300, seed=3)
    many = screen(n=6, effect=0.35, cells=3000, controls=10, genes=300, seed=3)
    table = perturb.at_a_glance(s.judged(means(profiles(many.cells), s.cells.var_names), splits=10), "mean")
    many_a = profile(many.a), len(many.a)
    assert many_a[1] == 10
    assert table.loc["MSE", "model"] == pytest.approx(table.loc["MSE", "ceiling"], rel=0.1)
    assert table.loc[MEAN, "model"] == pytest.approx(table.loc[MEAN, "ceiling"], abs=0.06)
    assert table.loc["discrimination", "model"] == 1


def test_where_halves_of_the_truth_do_not_vary_together_the_ceiling_is_not_estimable():
    s = screen(n=20, genes=100, controls=500)  # few controls would be noise that all perturbations have in common
    table = s.judged(unchanged(s), splits=4)
    bound = table[(table["row"] == "ceiling") & (table["metric"] == CONTROL)]["value"]
    assert 5 <= bound.isna().sum() <= 15 and bound.dropna().between(0, 1).all()
    line = perturb.summary(table).loc[(CONTROL, "ceiling")]
    assert line["judged"] == bound.notna().sum() and np.isnan(line["low"])
