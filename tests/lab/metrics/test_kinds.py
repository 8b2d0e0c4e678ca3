"""Every measure of two samples takes cells of any numeric kind, dense or sparse, and refuses the same bad ones."""

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

from lab import metrics

R = np.random.default_rng(0)
X, Y = R.poisson(3, (40, 6)), R.poisson(4, (40, 6))
LABELS = np.array(["A", "B"])[X[:, 0] % 2]
MEASURES = {
    "energy distance": metrics.energy_distance,
    "MMD": metrics.mmd,
    "Fréchet distance": metrics.frechet_distance,
    "classifier": lambda x, y: metrics.classifier_test(x, y).auc,
    "coverage": lambda x, y: metrics.coverage(x, y).recall,
    "copies": lambda x, y: metrics.copies(y, x).sum() + 1,
    "nearer to training": lambda x, y: metrics.closer_to_training(y, x, y),
    "transfer": lambda x, y: metrics.transfer_accuracy(y, LABELS[: y.shape[0]], x, LABELS[: x.shape[0]]),
}
KINDS = {
    **{name: lambda a, name=name: a.astype(name) for name in ("uint8", "int64", "float16", "float32", "float64")},
    **{name: lambda a, name=name: sparse.coo_matrix(a).asformat(name) for name in ("csr", "csc")},
    "torch": lambda a: torch.tensor(a, dtype=torch.float32),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_every_kind_give_the_same_number(measure, kind):
    to = KINDS[kind]
    assert MEASURES[measure](to(X), to(Y)) == pytest.approx(MEASURES[measure](X.astype(float), Y.astype(float)))


def torn(a):
    a = a.astype(float)
    a[3, 2] = np.nan
    return a


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "x, y, words",
    [(X, Y[:, :4], "same D"), (X[:, 0], Y, "N, D"), (torn(X), Y, "NaN"), (X, torn(Y), "NaN")],
    ids=["other features", "one number a cell", "NaN", "NaN in the samples"],
)
def test_what_are_no_two_samples_of_cells_is_refused_in_a_sentence_of_ours(measure, x, y, words):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=words) as caught:
        warnings.simplefilter("error")
        MEASURES[measure](x, y)
    assert "\n" not in str(caught.value) and caught.traceback[-1].frame.f_globals["__name__"].startswith("lab.")


def test_labels_that_are_not_one_a_cell_are_refused():
    with pytest.raises(ValueError, match="one label a cell"):
        metrics.transfer_accuracy(X, LABELS[:-1], Y, LABELS)
    with pytest.raises(ValueError, match="rows that sum to 1"):
        metrics.label_score(np.full((3, 2), np.nan))
