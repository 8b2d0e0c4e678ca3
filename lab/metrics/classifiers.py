"""What a classifier makes of samples: can it tell them from real cells, does it see every label, does it learn from
them."""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lab.errors import Refused

from .distances import _samples

RIDGE = 30.0  # as many cells' worth of a prior that no feature matters


class Told(NamedTuple):
    """A two-sample test: area under the curve and accuracy, both 1/2 for equal laws of equal size, and the p-value of
    the accuracy against the binomial of guesses."""

    auc: float
    accuracy: float
    p: float


def classifier_test(x, y, classifier=None, *, folds: int = 5, seed: int = 0) -> Told:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017) of arrays (N, D) and (M, D): a classifier learns in all
    `folds` but one to tell them apart, and is asked in that one; with folds=1 it learns in one half and is asked in the
    other.

    The default is least squares with a ridge on coordinates, squares and products: the right form for two Gaussians,
    whatever their means and covariances. `classifier` is any of scikit-learn's with a `decision_function` or
    `predict_proba`. Between N(0, S) and N(m, S), with D^2 = m^T S^-1 m, the best AUC is Phi(D / sqrt 2), the best
    accuracy Phi(D / 2). The p-value is one-sided, and right for folds=1: answers of several folds depend on one another
    through the cells that they learn from, so that it rejects too often.
    """
    x, y = _samples(x, y)
    if not 1 <= folds <= min(len(x), len(y)):
        raise Refused(f"folds={folds}, with {len(x)} and {len(y)} cells: from 1 to the number of the smaller sample")
    points, which = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    score = np.full(len(points), np.nan)
    if classifier is None:
        points = _quadratic(points)
    parts = StratifiedKFold(max(folds, 2), shuffle=True, random_state=seed).split(points, which)
    for known, asked in list(parts)[: folds if folds > 1 else 1]:
        answer = _ridge if classifier is None else partial(_scored, classifier)
        score[asked] = answer(points[known], which[known], points[asked])
    asked = np.isfinite(score)
    score, which = score[asked], which[asked]
    right = int(((score > 0) == which).sum())
    chance = max(which.mean(), 1 - which.mean())
    p = stats.binomtest(right, len(which), chance, alternative="greater").pvalue
    return Told(float(roc_auc_score(which, score)), right / len(which), float(p))


def _scored(classifier, known: np.ndarray, which: np.ndarray, asked: np.ndarray) -> np.ndarray:
    fitted = classifier.fit(known, which)
    by_sign = hasattr(fitted, "decision_function")
    return fitted.decision_function(asked) if by_sign else fitted.predict_proba(asked)[:, 1] - 0.5


def _quadratic(z: np.ndarray) -> np.ndarray:
    """Coordinates, squares and products of the standardised z (N, D), standardised again."""
    i, j = np.triu_indices(z.shape[1])
    z = _standard(z)
    return _standard(np.concatenate([z, z[:, i] * z[:, j]], 1))


def _standard(z: np.ndarray) -> np.ndarray:
    std = z.std(0)
    return (z - z.mean(0)) / np.where(std > 0, std, 1)


def _ridge(f: np.ndarray, which: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Scores (M,) above 0 for the second sample; in `which` (N,) both samples weigh alike."""
    sign = np.where(which == 1, 0.5 / which.mean(), -0.5 / (1 - which.mean()))
    centre = f.mean(0)
    f = f - centre
    w = np.linalg.solve(f.T @ f + RIDGE * np.eye(f.shape[1]), f.T @ sign)
    middle = (f[which == 1].mean(0) + f[which == 0].mean(0)) / 2
    return (asked - centre - middle) @ w


def label_score(probabilities) -> float:
    """exp of the mean KL(p(label | x) || mean over x), probabilities (N, K): what the Inception score is (Salimans et
    al. 2016), with a classifier of one's own. From 1, all alike, to K, every label sure and equally frequent, which one
    cell of each label, repeated, reaches."""
    p = np.asarray(probabilities, float)
    if p.ndim != 2 or not len(p) or not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise Refused("label_score takes probabilities (N, K), rows that sum to 1: predict_proba's")
    ratio = np.divide(p, p.mean(0), out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(1).mean()))


def transfer_accuracy(samples, labels, real, real_labels) -> float:
    """Balanced accuracy, over the labels of `real` (N, D), of a logistic regression trained on `samples` (M, D) and
    their `labels`: train on synthetic cells, test on real ones (Esteban et al. 2017). Raises `Refused` where cells and
    labels differ in number."""
    samples, real = _samples(samples, real)
    labels, real_labels = np.asarray(labels).astype(str), np.asarray(real_labels).astype(str)
    if labels.shape != samples.shape[:1] or real_labels.shape != real.shape[:1]:
        raise Refused(
            f"one label a cell: {len(samples)} samples with {labels.shape} labels, {len(real)} real cells with "
            f"{real_labels.shape}"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    guess = model.fit(samples, labels).predict(real) if len(set(labels)) > 1 else np.full(len(real), labels[0])
    return float(np.mean([(guess[real_labels == label] == label).mean() for label in sorted(set(real_labels))]))
