"""Distances between samples against their closed forms between Gaussians."""

import math

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.linalg import sqrtm

from lab import metrics


def folded(mean, std):
    """E|N(mean, std^2)|."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * (
        1 - 2 * stats.norm.cdf(-mean / std)
    )


def test_energy_distance_is_the_closed_form_between_gaussians_and_the_square_of_scipys():
    exact, seen = 2 * folded(0.8, math.sqrt(1 + 1.5**2)) - folded(0, math.sqrt(2)) - folded(0, 1.5 * math.sqrt(2)), []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(0, 1, (2000, 1)), rng.normal(0.8, 1.5, (2000, 1))
        seen.append(metrics.energy_distance(x, y))
        assert abs(seen[-1] - stats.energy_distance(x[:, 0], y[:, 0]) ** 2) < 0.005  # scipy's has a bias of order 1 / N
    assert abs(np.mean(seen) - exact) < 4 * np.std(seen) / math.sqrt(len(seen)) < 0.1


def test_equal_laws_give_energy_distance_and_mmd_around_zero_on_both_sides():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(150, 3)), rng.normal(size=(150, 3))) for _ in range(60)]
    for distance in (metrics.energy_distance, metrics.mmd):
        values = np.array([distance(x, y) for x, y in pairs])
        assert values.min() < 0 < values.max()
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("seed", range(5))
def test_mmd_is_the_closed_form_between_gaussians(seed):
    rng, d, shift, bandwidth = np.random.default_rng(seed), 2, 0.7, 1.3
    x, y = rng.normal(size=(2500, d)), rng.normal(size=(2500, d)) + shift / math.sqrt(d)
    scale = (bandwidth**2 / (bandwidth**2 + 2)) ** (d / 2)
    exact = 2 * scale * (1 - math.exp(-(shift**2) / (2 * (bandwidth**2 + 2))))
    assert abs(metrics.mmd(x, y, bandwidth) - exact) < 0.015


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_of_moments_matched_exactly_is_the_textbook_formula(seed):
    rng, d = np.random.default_rng(seed), 4
    x, y = rng.normal(size=(300, d)) @ rng.normal(size=(d, d)), rng.normal(size=(200, d)) + 1
    s, t = np.cov(x.T), np.cov(y.T)
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(exact, rel=1e-8)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_fewer_points_than_coordinates_is_exact():
    r = np.random.default_rng(0)
    x, y = r.normal(size=(200, 1000)), r.normal(size=(250, 1000))
    X, Y = x - x.mean(0), y - y.mean(0)
    exact = np.square(x.mean(0) - y.mean(0)).sum() + np.square(X).sum() / 199 + np.square(Y).sum() / 249
    exact -= 2 * np.linalg.svd(X @ Y.T, compute_uv=False).sum() / np.sqrt(199 * 249)  # nuclear norm: the same trace
    assert metrics.frechet_distance(x, y) == pytest.approx(exact, rel=1e-12)
    assert 0 <= metrics.frechet_distance(x, x) < 1e-10
    assert metrics.frechet_distance(x[:, :1] * 0, x[:, :1] * 0) == 0


@pytest.mark.parametrize("distance", [metrics.mmd, metrics.energy_distance, metrics.frechet_distance])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float16", "float32", "csr", "csc", "coo"])
def test_samples_of_every_kind_give_the_same_distance(distance, kind):
    r = np.random.default_rng(0)
    x, y = r.poisson(3, (40, 5)), r.poisson(4, (30, 5))
    to = lambda a: sparse.coo_matrix(a).asformat(kind) if len(kind) == 3 else a.astype(kind)
    assert distance(to(x), to(y)) == distance(x.astype(float), y.astype(float)) > 0


def test_frechet_distance_is_biased_upwards_like_one_over_n():
    rng = np.random.default_rng(0)

    def mean(n):
        return np.mean([metrics.frechet_distance(rng.normal(size=(n, 8)), rng.normal(size=(n, 8))) for _ in range(30)])

    assert 2.5 < mean(100) / mean(400) < 6.5


def test_frechet_is_blind_to_shape_where_energy_distance_is_not():
    rng, n = np.random.default_rng(0), 2000
    x = rng.normal(size=(n, 1)) * math.sqrt(1 + 0.04)
    y = rng.choice([-1, 1], (n, 1)) + rng.normal(size=(n, 1)) * 0.2
    assert metrics.frechet_distance(x, y) < 0.01 and metrics.energy_distance(x, y) > 0.02


@pytest.mark.parametrize("distance", [metrics.mmd, metrics.energy_distance, metrics.frechet_distance])
@pytest.mark.parametrize(
    "x, y, word",
    [
        (np.ones(3), np.ones((3, 1)), "same D"),
        (np.ones((3, 2)), np.ones((3, 1)), "same D"),
        (np.ones((1, 1)), np.ones((3, 1)), "two points"),
        (np.full((3, 1), np.nan), np.ones((3, 1)), "NaN"),
    ],
)
def test_bad_samples_are_refused_in_words(distance, x, y, word):
    with pytest.raises(ValueError, match=word):
        distance(x, y)


def test_mmd_refuses_a_bandwidth_of_zero():
    with pytest.raises(ValueError, match="bandwidth"):
        metrics.mmd(np.ones((4, 1)), np.ones((4, 1)))
