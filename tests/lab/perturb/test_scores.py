"""Each number against a hand-computed one, a library's, or a way in which it could be gamed."""

import doctest

import numpy as np
import pytest
from scipy import stats

from lab.baselines import perturb as rows
from lab.perturb import scores, table


@pytest.mark.parametrize("module, least", [(scores, 13), (rows, 8), (table, 4)])
def test_hand_computed_values(module, least):
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted >= least


def test_r2_of_a_gene_is_0_for_the_mean_known_in_training_and_the_flattened_one_is_high_whatever_perturbations_do():
    """Genes of very different means; profiles that differ by noise alone, and a mean that saw other perturbations."""
    random = np.random.default_rng(0)
    base = 3 * random.random(500)
    train, truth = base + 0.1 * random.normal(size=(2, 40, 500))
    mean = train.mean(0)
    same = np.tile(mean, (40, 1))
    assert scores.r2(same, truth, mean) == 0 and scores.r2(same, truth, mean, flat=True) > 0.98
    assert scores.r2(truth, truth, mean) == 1 == scores.r2(truth, truth, mean, flat=True)
    assert scores.r2(train, truth, mean) == pytest.approx(-1, abs=0.15)  # twice the noise, where the mean has it once
    still = np.concatenate([truth, np.ones((40, 1))], 1)  # a gene that is the same everywhere
    with_ = lambda p: np.concatenate([p, np.ones((40, 1))], 1)
    assert scores.r2(with_(train), still, np.append(mean, 1)) == pytest.approx(scores.r2(train, truth, mean))


def test_discrimination_of_one_prediction_for_all_is_the_same_whatever_it_says():
    truth = np.random.default_rng(0).normal(size=(12, 30))
    for seed in range(5):
        same = np.tile(np.random.default_rng(seed).normal(size=30) * 3, (12, 1))
        assert scores.discrimination(same, truth).mean() == pytest.approx(13 / 24)


def test_discrimination_takes_a_shift_for_its_opposite_no_more():
    """cell-eval#189: with absolute shifts, threefold down is nearer to threefold up than fivefold up is."""
    control = np.full(4, 10.0)
    truth = control + np.array([[5.0], [-3.0]])
    predicted = control + np.array([[3.0], [-3.0]])
    assert scores.discrimination(predicted, truth).tolist() == [1, 1]
    assert scores.discrimination(np.abs(predicted - control), np.abs(truth - control)).tolist() == [0.5, 1]


def test_a_target_gene_gives_no_perturbation_away_neither_the_right_one_nor_a_candidate():
    """All true profiles are alike but for their own gene, and the prediction knows that gene, or nothing at all."""
    random = np.random.default_rng(0)
    truth = np.zeros((40, 60)) + random.normal(size=60)
    truth += 0.1 * random.normal(size=truth.shape)
    truth[range(40), range(40)] -= 5
    constant = np.tile(truth.mean(0), (40, 1))
    knows = constant.copy()
    knows[range(40), range(40)] -= 5
    own, chance = [[i] for i in range(40)], 41 / 80
    assert (scores.discrimination(knows, truth) == 1).all()
    for prediction in (knows, constant):
        assert abs(scores.discrimination(prediction, truth, own).mean() - chance) < 0.05
        assert (scores.discrimination(prediction, truth, own, both=False) == 1).all(), "what leaving out one does"


def test_a_combination_s_two_genes_are_left_out_and_what_they_share_once():
    truth = np.array([[0.0, 5.0, 1.0], [5.0, 5.0, 1.2], [0.0, 0.0, 3.0]])
    said = scores.discrimination(np.array([[9.0, 9.0, 1.15]] * 3), truth, [[1], [0, 1], []])
    assert said.tolist() == [1 - 1 / 3, 1, 1 - 2 / 3]


def test_welchs_test_is_scipys():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 40)) + (np.arange(40) < 10) * 2, random.normal(size=(30, 40)) * 1.5
    p = stats.ttest_ind(x, y, equal_var=False).pvalue
    found = scores.changed_by_cells(
        x.mean(0)[None], x.var(0, ddof=1)[None], np.array([12]), y.mean(0), y.var(0, ddof=1), 30
    )
    assert ((found[0] != 0) == (stats.false_discovery_control(p) <= 0.05)).all() and (found[0, :10] >= 0).all()


def test_pseudobulks_of_paired_donors_are_tested_as_scipy_tests_pairs():
    """One group and its control in each donor: the linear model is the paired t-test."""
    random = np.random.default_rng(1)
    donor = random.normal(size=(6, 50)) * 3
    x, y = donor + 0.3 * random.normal(size=(6, 50)) + (np.arange(50) < 12), donor + 0.3 * random.normal(size=(6, 50))
    p = stats.ttest_rel(x, y).pvalue
    found = scores.changed_by_replicates(np.concatenate([x, y]), np.repeat([0, 1], 6), np.tile(np.arange(6), 2), 1)
    assert ((found[0] != 0) == (stats.false_discovery_control(p) <= 0.05)).all() and found[0].sum() > 6


def test_one_pseudobulk_each_leaves_nothing_to_test_with():
    found = scores.changed_by_replicates(np.ones((2, 3)), np.array([0, 1]), np.array([0, 0]), 1)
    assert (found == 0).all()


def test_a_group_without_a_replicate_in_common_with_controls_has_no_changed_gene_and_others_have_theirs():
    random = np.random.default_rng(2)
    y = random.normal(size=(9, 30)) + 9 * (np.arange(9) > 5)[:, None]  # group 1 in a donor of its own
    y[3:6] += 9
    group, donor = np.repeat([2, 0, 1], 3), np.array([0, 1, 2, 0, 1, 2, 3, 3, 3])
    found = scores.changed_by_replicates(y, group, donor, 2)
    assert (found[0] == 1).all() and (found[1] == 0).all()


@pytest.mark.parametrize("noise", [0.3, 2.0, 6.0])
def test_ridge_left_out_in_closed_form_is_the_fit_without_it_under_the_penalty_that_the_others_choose(noise):
    random = np.random.default_rng(1)
    names, every = [f"P{i}" for i in range(12)], list(range(12))
    features = rows.pd.DataFrame(random.normal(size=(12, 3)), names)
    means = features.to_numpy() @ random.normal(size=(3, 20)) + noise * random.normal(size=(12, 20))
    x = ((features - features.mean()) / features.std(ddof=0)).to_numpy()  # the scale of all: it knows no profile

    def fit(kept, penalty, of):
        """What those `kept` say of others, by the normal equations."""
        a, y = x[kept], means[kept]
        a_ = a - a.mean(0)
        w = np.linalg.solve(a_.T @ a_ + min(penalty, 1e12) * np.eye(3), a_.T @ (y - y.mean(0)))
        return y.mean(0) + (x[of] - a.mean(0)) @ w

    def best(kept):
        """The penalty that those `kept` choose, each left out in turn."""
        off = lambda p: sum(np.square(means[j] - fit([k for k in kept if k != j], p, j)).sum() for j in kept)
        return min(rows.PENALTIES * 12, key=off)

    known = rows.pd.DataFrame(means, names)
    others = [[j for j in every if j != i] for i in every]
    expected = [fit(kept, best(kept), i) for i, kept in enumerate(others)]
    np.testing.assert_allclose(rows.ridge(names, known, features), expected, rtol=1e-6)
    assert noise != 2.0 or len({best(kept) for kept in others}) > 1, "they do not all choose alike"
    new = rows.ridge(["new"], known, rows.pd.concat([features, features.iloc[:1].set_axis(["new"])]))
    np.testing.assert_allclose(new[0], fit(every, best(every), 0), rtol=1e-6)


def test_of_three_no_two_choose_a_penalty_for_the_third_and_ridge_says_their_mean():
    """A fit to one alone is the same under every penalty."""
    random, names = np.random.default_rng(0), list("ABC")
    known, features = (rows.pd.DataFrame(random.normal(size=(3, n)), names) for n in (20, 4))
    np.testing.assert_allclose(rows.ridge(names, known, features), rows.perturbed_mean(names, known))


def test_no_baseline_knows_the_perturbation_that_it_predicts():
    """Its own profile moved by any amount moves nothing."""
    random = np.random.default_rng(0)
    names = ["A", "B", "C", "D", "A+B"]
    features = rows.pd.DataFrame(random.normal(size=(5, 2)), names)
    known = rows.pd.DataFrame(random.normal(size=(5, 6)), names)
    moved = known.copy()
    moved.iloc[4] += 100
    for say in (
        lambda k: rows.perturbed_mean(names, k),
        lambda k: rows.additive(names, np.zeros(6), k),
        lambda k: rows.nearest(names, k, features),
        lambda k: rows.ridge(names, k, features),
    ):
        np.testing.assert_allclose(say(known)[4], say(moved)[4])


def test_a_gene_s_place_among_control_cells_tells_its_programme():
    random = np.random.default_rng(0)
    state = random.normal(size=(300, 2))
    x = state @ np.kron(np.eye(2), np.ones(10)) + 0.3 * random.normal(size=(300, 20))
    genes = rows.pd.Index([f"G{i}" for i in range(20)])
    for cells in (x, x[:15]):  # more cells than genes, and fewer
        f = rows.target_features(["G0", "G5", "G15", "G0+G15", "unknown"], cells, genes, n=2)
        assert list(f.index) == ["G0", "G5", "G15", "G0+G15"]
        near, far = (np.linalg.norm(f.loc["G0"] - f.loc[other]) for other in ("G5", "G15"))
        assert near < far / 2
        np.testing.assert_allclose(f.loc["G0+G15"], f.loc["G0"] + f.loc["G15"])
