"""Where samples lie: precision and recall, copies, and memory, each against a case whose answer is known."""

import numpy as np
import pytest
from scipy import sparse

from lab import metrics
from lab.errors import Refused


def test_a_missing_mode_costs_recall_and_a_mode_too_many_costs_precision():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 300, 2))
    far = rng.normal(size=(300, 2)) + 50
    both = np.concatenate([one, far])
    narrow, wide = metrics.coverage(both, two), metrics.coverage(two, both)
    assert narrow.precision > 0.9 and 0.45 < narrow.recall < 0.5
    assert wide.recall > 0.9 and 0.45 < wide.precision < 0.5
    assert metrics.coverage(one, far) == (0, 0)


def test_precision_of_one_is_recall_of_the_other():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)), rng.normal(size=(60, 3)) * 1.4
    assert metrics.coverage(x, y, k=3) == metrics.coverage(y, x, k=3)[::-1]


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_planted_copies_are_found_and_no_other(kind):
    rng = np.random.default_rng(0)
    train, samples = rng.poisson(2, (300, 40)), rng.poisson(2, (200, 40))
    planted = rng.choice(200, 20, replace=False)
    samples[planted] = train[rng.choice(300, 20)]
    assert np.flatnonzero(metrics.copies(kind(samples), kind(train.astype(float)))).tolist() == sorted(planted)


def test_a_fresh_sample_is_as_often_nearer_to_one_half_as_to_the_other_and_a_memory_is_not():
    rng, fresh, memory = np.random.default_rng(0), [], []
    for _ in range(40):
        train, held_out, new = rng.normal(size=(3, 100, 5))
        fresh.append(metrics.closer_to_training(new, train, held_out))
        near = train + 0.3 * rng.normal(size=train.shape)
        memory.append(metrics.closer_to_training(near, train, held_out))
    assert abs(np.mean(fresh) - 0.5) < 3 * np.std(fresh) / np.sqrt(40)
    assert 0.9 < np.mean(memory)
    assert metrics.closer_to_training(new, train, train) == 0.5


def test_sets_of_unequal_size_and_too_few_neighbours_are_refused():
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(Refused, match="as many of each"):
        metrics.closer_to_training(x, x, x[:10])
    with pytest.raises(Refused, match="k=30"):
        metrics.coverage(x, x, k=30)
