"""Two models on the same cells: the t test's standard error, blind to what cells have in common."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from lab.errors import Refused
from lab.metrics import paired


def test_the_ratio_of_difference_and_error_is_the_paired_t_statistic():
    ours, theirs = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    difference, error = paired(ours, theirs)
    assert difference / error == pytest.approx(ttest_rel(ours, theirs).statistic, rel=1e-5)
    assert paired(theirs, ours) == pytest.approx((-difference, error))


def test_what_a_cell_adds_to_both_scores_changes_nothing():
    """Nats of a deep cell: a thousand on both sides, and the difference of two models is not moved."""
    ours, theirs, depth = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert paired(ours + 1000 * depth, theirs + 1000 * depth) == pytest.approx(paired(ours, theirs), abs=1e-9)


def test_the_error_is_the_spread_over_draws_of_held_out_cells():
    noise = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0)) + 3
    found = [paired(row, torch.zeros(100)) for row in noise]
    spread = np.std([f.difference for f in found])
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.06)
    covered = np.mean([abs(f.difference - 3) < 1.96 * f.error for f in found])
    assert 0.93 < covered < 0.965


@pytest.mark.parametrize(
    "ours, theirs, why",
    [
        (torch.zeros(3), torch.zeros(4), "one length"),
        (torch.zeros(3, 1), torch.zeros(3, 1), "two vectors"),
        (torch.zeros(1), torch.zeros(1), "two or more"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(2), "NaN"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(ours, theirs, why):
    with pytest.raises(Refused, match=why):
        paired(ours, theirs)
