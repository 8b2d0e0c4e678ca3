"""The bulk simulator: its counts follow the truth that it returns, and its counterfactuals are what they say."""

import numpy as np
import pytest
from scipy import stats

from lab import data
from lab.errors import Refused


@pytest.fixture(scope="module")
def samples():
    return data.bulk()


def test_every_hidden_quantity_is_returned(samples):
    assert samples.shape == (600, 500) and set(samples.layers) == {"mean", "counts"}
    assert list(samples.obs.columns) == ["tissue", "disease", "batch", "size_factor", "n_counts"]
    assert (
        list(samples.varm["disease"].columns) == ["healthy", "disease 1"]
        and (samples.varm["disease"]["healthy"] == 0).all()
    )
    assert 0.05 < (samples.varm["disease"]["disease 1"] != 0).mean() < 0.15
    np.testing.assert_allclose(samples.varm["batch"].sum(axis=1), 0, atol=1e-12)
    assert samples.obs["n_counts"].median() == pytest.approx(1e6, rel=0.25)
    data.check_counts(samples)


def test_counts_are_negative_binomial_around_the_true_mean(samples):
    mean, theta, counts = samples.layers["mean"], samples.var["theta"].to_numpy(), samples.layers["counts"]
    law = stats.nbinom(theta, theta / (theta + mean))
    u = law.cdf(counts - 1) + np.random.default_rng(0).random(counts.shape) * law.pmf(counts)  # randomised PIT: uniform
    assert stats.kstest(u.ravel(), "uniform").statistic < 1.63 / np.sqrt(u.size)  # 1 % critical value
    assert stats.kstest(stats.poisson(mean).cdf(counts).ravel(), "uniform").statistic > 0.2


def test_the_factual_counterfactual_is_the_mean(samples):
    np.testing.assert_allclose(data.counterfactual_mean(samples), samples.layers["mean"])
    healthy = (samples.obs["disease"] == "healthy").to_numpy()
    np.testing.assert_allclose(
        data.counterfactual_mean(samples, disease="healthy")[healthy], samples.layers["mean"][healthy]
    )
    lung = (samples.obs["tissue"] == "tissue 2").to_numpy()
    np.testing.assert_allclose(data.counterfactual_mean(samples, tissue="tissue 2")[lung], samples.layers["mean"][lung])


def test_a_counterfactual_differs_by_exactly_the_effect_changed(samples):
    log_ratio = np.log(
        data.counterfactual_mean(samples, disease="disease 1") / data.counterfactual_mean(samples, disease="healthy")
    )
    np.testing.assert_allclose(
        log_ratio, np.broadcast_to(samples.varm["disease"]["disease 1"], log_ratio.shape), atol=1e-9
    )
    log_ratio = np.log(data.counterfactual_mean(samples, batch="batch 2") / samples.layers["mean"])
    effect = samples.varm["batch"]
    np.testing.assert_allclose(
        log_ratio, (effect["batch 2"].to_numpy() - effect[samples.obs["batch"]].to_numpy().T), atol=1e-9
    )


def test_regression_on_the_known_design_recovers_the_disease_effect():
    samples = data.bulk(3000, 50, sample_std=0.0, affected=0.5)
    y = np.log((samples.layers["counts"] + 0.5) / samples.obs["size_factor"].to_numpy()[:, None])
    design = np.hstack(
        [np.eye(len(c.cat.categories))[c.cat.codes] for c in (samples.obs[n] for n in ("tissue", "disease", "batch"))]
    )
    effect = np.linalg.lstsq(design, y, rcond=None)[0][5:7]
    np.testing.assert_allclose(effect[1] - effect[0], samples.varm["disease"]["disease 1"], atol=0.08)


def test_confounding_ties_batch_to_disease():
    free = data.bulk(2000, 5, n_batches=2).obs
    tied = data.bulk(2000, 5, n_batches=2, confounding=1.0).obs
    agree = lambda obs: (obs["disease"].cat.codes == obs["batch"].cat.codes).mean()
    assert agree(tied) == 1 and agree(free) == pytest.approx(0.5, abs=0.05)


def test_the_seed_fixes_everything(samples):
    np.testing.assert_array_equal(data.bulk().layers["counts"], samples.layers["counts"])
    assert (data.bulk(seed=1).layers["counts"] != samples.layers["counts"]).mean() > 0.9


def test_what_was_not_simulated_is_refused(samples):
    with pytest.raises(Refused, match="disease 'flu' was not simulated; there are: healthy, disease 1"):
        data.counterfactual_mean(samples, disease="flu")
    with pytest.raises(Refused, match="tissue 'skin' was not simulated"):
        data.counterfactual_mean(samples, tissue="skin")
    with pytest.raises(Refused, match="at least 1"):
        data.bulk(n_diseases=0)
