"""Classifiers as judges of samples: the optimum between Gaussians, the binomial, and the score that one cell of each
label reaches."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier

from lab import metrics
from lab.errors import Refused


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_between_shifted_gaussians_the_classifier_comes_near_the_best_there_is(shift):
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(4, 4))
        x, y = (rng.normal(size=(1000, 4)) @ mix for _ in range(2))
        y += shift * np.array([0.6, 0.8, 0, 0]) @ mix  # a Mahalanobis distance of `shift`
        found.append(metrics.classifier_test(x, y, seed=seed)[:2])
    auc, accuracy = np.mean(found, 0)
    assert norm.cdf(shift / math.sqrt(2)) - 0.03 < auc < norm.cdf(shift / math.sqrt(2)) + 0.015
    assert norm.cdf(shift / 2) - 0.03 < accuracy < norm.cdf(shift / 2) + 0.015


def test_one_half_asked_rejects_equal_laws_as_often_as_the_binomial_says_and_five_folds_more_often():
    rng, p = np.random.default_rng(0), {1: [], 5: []}
    for _ in range(400):
        x, y = rng.normal(size=(2, 100, 3))
        for folds, seen in p.items():
            seen.append(metrics.classifier_test(x, y, folds=folds).p)
    rejected = {folds: np.mean(np.array(seen) < 0.05) for folds, seen in p.items()}
    assert 0.02 < rejected[1] < 0.075  # the exact binomial test is conservative: .04 of 100 answers
    assert rejected[5] > rejected[1]


def test_squares_and_products_see_what_means_do_not_show():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    wider, tilted = rng.normal(size=(1000, 2)) * 1.5, rng.normal(size=(1000, 2)) @ [[1, 0.9], [0, 0.44]]
    assert metrics.classifier_test(x, wider).auc > 0.65
    assert metrics.classifier_test(x, tilted).auc > 0.65


def test_any_classifier_of_scikit_learn_can_be_asked():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = rng.choice([-1, 1], (400, 2)) + 0.1 * rng.normal(size=(400, 2))  # the same means and variances, four points
    x[:, 0] *= math.sqrt(1.01)
    trees = metrics.classifier_test(x, y, HistGradientBoostingClassifier(random_state=0))
    assert trees.auc > 0.85
    assert metrics.classifier_test(x, y).auc < 0.7


def test_one_cell_of_each_label_repeated_has_the_highest_label_score_possible():
    sure = np.eye(5)[np.arange(1000) % 5]
    assert metrics.label_score(sure) == pytest.approx(5)
    assert metrics.label_score(np.full((10, 5), 0.2)) == pytest.approx(1)
    assert metrics.label_score(np.eye(5)[np.zeros(10, int)]) == pytest.approx(1)
    q = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    information = np.mean([np.sum(row * np.log(row / q.mean(0))) for row in q])
    assert metrics.label_score(q) == pytest.approx(math.exp(information))


def test_a_classifier_of_samples_with_shuffled_labels_knows_nothing_of_real_cells():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 600)
    cells = np.eye(3)[kind] * 4 + rng.normal(size=(600, 3))
    right = metrics.transfer_accuracy(cells[:300], kind[:300], cells[300:], kind[300:])
    wrong = metrics.transfer_accuracy(cells[:300], rng.permutation(kind[:300]), cells[300:], kind[300:])
    assert right > 0.95 and 0.15 < wrong < 0.55
    assert metrics.transfer_accuracy(cells[:5], ["a"] * 5, cells, np.where(kind == 0, "a", "b")) == 0.5


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: metrics.classifier_test(np.ones((3, 1)), np.ones((9, 1)), folds=5), "folds=5"),
        (lambda: metrics.label_score(np.ones((3, 2))), "sum to 1"),
        (lambda: metrics.label_score(np.ones(3)), "probabilities"),
    ],
)
def test_bad_input_is_refused_in_words(call, word):
    with pytest.raises(Refused, match=word):
        call()
