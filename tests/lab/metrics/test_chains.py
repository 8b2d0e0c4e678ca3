"""The memory of chains: against an autoregression's closed form, statsmodels, and chains that never meet."""

import numpy as np
import pytest
from statsmodels.tsa.stattools import acf

from lab.errors import Refused
from lab.metrics import autocorrelation, effective_sample_size


def autoregression(a, n, m=1, seed=0):
    """x <- a x + noise from stationarity: M chains of N steps with correlation a^k at lag k."""
    random = np.random.default_rng(seed)
    x = [random.standard_normal(m)]
    for noise in random.standard_normal((n - 1, m)):
        x.append(a * x[-1] + np.sqrt(1 - a**2) * noise)
    return np.array(x)


def test_one_chain_has_the_autocorrelation_of_statsmodels():
    x = autoregression(0.7, 500)[:, 0] + 3
    np.testing.assert_allclose(autocorrelation(x, 40), acf(x, nlags=40, fft=False), atol=1e-12)
    assert len(autocorrelation(x)) == 500


@pytest.mark.parametrize("a", [0.9, 0.5, 0.0, -0.5])
def test_an_autoregression_forgets_like_its_coefficient_to_the_power_of_the_lag(a):
    rho = autocorrelation(autoregression(a, 4000, 50), 10)
    np.testing.assert_allclose(rho, float(a) ** np.arange(11), atol=0.02)


@pytest.mark.parametrize("a", [0.95, 0.8, 0.0, -0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_effective_sample_size_of_an_autoregression_is_its_closed_form(a, seed):
    x = autoregression(a, 20_000, 4, seed)
    assert effective_sample_size(x) / x.size == pytest.approx((1 - a) / (1 + a), rel=0.1)


def test_the_effective_sample_size_is_what_the_scatter_of_means_says():
    """Its meaning: the variance of the mean over repetitions is the variance of one draw divided by it."""
    x = autoregression(0.8, 1000, 4000)
    said = np.mean([effective_sample_size(x[:, i]) for i in range(0, 4000, 20)])
    assert x.var() / x.mean(0).var() == pytest.approx(said, rel=0.1)


def test_chains_that_stay_where_they_started_are_worth_one_draw_each():
    stuck = autoregression(0.3, 2000, 10) + 100.0 * np.arange(10)
    assert 8 < effective_sample_size(stuck) < 25
    assert effective_sample_size(stuck[:, 3]) > 800  # which one chain alone cannot know


def test_shift_and_scale_change_nothing():
    x = autoregression(0.6, 300, 3)
    assert effective_sample_size(1e3 - 20 * x) == pytest.approx(effective_sample_size(x))


@pytest.mark.parametrize(
    "chains, why",
    [
        (np.zeros(3), "4 or more"),
        (np.zeros((9, 2, 2)), "one number a step"),
        (np.zeros((9, 0)), "one number a step"),
        (np.ones(50), "never move"),
        (np.append(np.arange(9.0), np.inf), "diverged"),
    ],
)
def test_what_is_no_chain_is_refused(chains, why):
    for function in (autocorrelation, effective_sample_size):
        with pytest.raises(Refused, match=why):
            function(chains)


def test_a_lag_beyond_the_chain_is_refused():
    for n_lags in (10, -1):
        with pytest.raises(Refused, match="lags from 0 to 9"):
            autocorrelation(np.arange(10.0), n_lags)


@pytest.mark.peer
def test_the_effective_sample_size_is_near_blackjaxs():
    diagnostics = pytest.importorskip("blackjax.diagnostics")
    x = autoregression(0.8, 2000, 4)
    assert effective_sample_size(x) == pytest.approx(
        float(diagnostics.effective_sample_size(x, chain_axis=1, sample_axis=0)), rel=0.02
    )
