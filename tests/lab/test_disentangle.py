"""Disentanglement: metrics with known values on rotated factors, the KL's parts where each is known, FactorVAE's total
correlation."""

import math
import time
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import mutual_info_score
from torch import nn
from torch.distributions import Independent, Normal

from lab import disentangle, train, vae
from lab.nets import mlp

RHO = 0.7


def rotated(degrees, n=10_000, seed=0):
    """Codes (n, 2): two uniform factors of ten levels, turned; and the factors."""
    factors = np.random.default_rng(seed).integers(0, 10, (n, 2)).astype(float)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return factors @ [[cos, sin], [-sin, cos]], factors


def correlated(n, seed):
    """n draws of a standard Gaussian in the plane with correlation RHO."""
    z = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, RHO], [RHO, 1]], n)
    return torch.tensor(z, dtype=torch.float32)


@pytest.mark.parametrize("degrees, gap, d", [(0, 0.998, 1), (15, 0.322, 0.70), (30, 0.108, 0.21), (45, 0.004, 0)])
def test_mig_and_dci_of_rotated_factors_have_their_known_values(degrees, gap, d):
    for seed in range(3):
        codes, factors = rotated(degrees, seed=seed)
        assert disentangle.mig(codes, factors) == pytest.approx(gap, abs=0.02)
        scores = disentangle.dci(codes, factors)
        assert scores["disentanglement"] == pytest.approx(d, abs=0.03)
        assert scores["completeness"] == pytest.approx(d, abs=0.03)
        assert scores["informativeness"] > 0.99  # nothing is lost by turning


@pytest.mark.parametrize("degrees", [0, 10, 20, 30, 45])
def test_sap_of_rotated_factors_is_the_cosine_of_twice_the_angle(degrees):
    codes, factors = rotated(degrees, n=100_000)
    assert disentangle.sap(codes, factors) == pytest.approx(math.cos(math.radians(2 * degrees)), abs=0.02)


def test_mig_is_the_gap_of_scikit_learns_mutual_information():
    random = np.random.default_rng(0)
    factors = random.integers(0, 4, (500, 3))
    codes = np.round(factors[:, [0, 1, 2, 0]] + random.normal(0, 0.7, (500, 4)))
    gaps = []
    for v in factors.T:
        information = sorted(mutual_info_score(z, v) for z in codes.T)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(v, v))
    assert np.ptp(codes, axis=0).max() < 30
    assert disentangle.mig(codes, factors, bins=1000) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_dci_reads_the_importances_of_scikit_learns_forest():
    random = np.random.default_rng(0)
    factors = random.normal(size=(800, 2))
    codes = np.c_[factors[:, 0], factors.sum(1), random.normal(size=800)]
    R = [RandomForestRegressor(20, max_depth=8, random_state=0).fit(codes, v).feature_importances_ for v in factors.T]
    entropy = -(np.array(R) * np.log(R)).sum(1) / np.log(3)
    assert disentangle.dci(codes, factors)["completeness"] == pytest.approx(1 - entropy.mean(), abs=0.05)


def test_disentanglement_and_completeness_are_not_the_same_question():
    """A factor told twice lowers completeness alone; a coordinate that serves two factors, disentanglement."""
    v, w, u = np.random.default_rng(0).normal(size=(3, 8000))
    twice = disentangle.dci(np.c_[v + 0.3 * w, v - 0.3 * w, u], np.c_[v, u])
    assert twice["disentanglement"] > 0.95
    assert twice["completeness"] == pytest.approx(1 - math.log(2) / math.log(3) / 2, abs=0.05)
    shared = disentangle.dci(np.c_[v, u], np.c_[v + 0.1 * w, v - 0.1 * w, u])
    assert shared["completeness"] > 0.95
    assert shared["disentanglement"] == pytest.approx(1 - math.log(2) / math.log(3) * 2 / 3, abs=0.05)


def test_scores_do_not_depend_on_the_order_sign_or_scale_of_codes():
    codes, factors = rotated(20)
    changed = codes[:, ::-1] * [-3.0, 0.01]
    assert disentangle.mig(changed, factors) == pytest.approx(disentangle.mig(codes, factors), abs=0.03)
    assert disentangle.sap(changed, factors) == pytest.approx(disentangle.sap(codes, factors), abs=1e-9)
    a, b = (disentangle.dci(c, factors)["disentanglement"] for c in (changed, codes))
    assert a == pytest.approx(b, abs=0.03)


def test_a_constant_code_changes_no_gap_and_noise_scores_nothing():
    codes, factors = rotated(15)
    padded = np.c_[codes, np.ones(len(codes))]
    assert disentangle.mig(padded, factors) == pytest.approx(disentangle.mig(codes, factors), abs=1e-12)
    assert disentangle.sap(padded, factors) == pytest.approx(disentangle.sap(codes, factors), abs=1e-12)
    noise = np.random.default_rng(0).normal(size=(10_000, 5))
    assert disentangle.mig(noise, factors) < 0.01 and disentangle.sap(noise, factors) < 0.01
    assert abs(disentangle.dci(noise, factors)["informativeness"]) < 0.05


@pytest.mark.parametrize("degrees", [0, 15, 30, 44, 46])
def test_factor_score_of_a_turned_code_is_one_however_far_it_is_turned(degrees):
    """The votes ask which coordinate varies least, not by how much: only at 45 degrees is there no answer."""
    codes, factors = rotated(degrees)
    score = disentangle.factor_score(codes, factors, size=4000 if degrees in (44, 46) else 64)
    assert score > (0.7 if degrees in (44, 46) else 0.99)


def test_factor_score_of_noise_of_a_balanced_turn_and_of_a_missing_factor_are_known():
    codes, factors = rotated(45)
    assert disentangle.factor_score(codes, factors, n_votes=2000) == pytest.approx(0.5, abs=0.05)
    noise = np.random.default_rng(1).normal(size=(10_000, 4))
    assert disentangle.factor_score(noise, factors, n_votes=2000) == pytest.approx(0.5, abs=0.05)
    # factor 2 fixed, neither coordinate varies less: half of its votes are for factor 1
    half = np.c_[factors[:, 0], np.random.default_rng(2).permutation(factors[:, 1])]
    assert disentangle.factor_score(half, factors, n_votes=2000) == pytest.approx(0.75, abs=0.05)
    three = np.random.default_rng(3).normal(size=(4000, 3))
    assert disentangle.factor_score(np.roll(three, 1, 0), three, n_votes=2000) == pytest.approx(1 / 3, abs=0.05)


def test_factor_score_asks_what_a_coordinate_serves_and_not_whether_a_factor_is_split():
    v, w, u = np.random.default_rng(0).normal(size=(3, 8000))
    assert disentangle.factor_score(np.c_[v + 0.3 * w, v - 0.3 * w, u], np.c_[v, u]) > 0.99
    shared = np.c_[v + u, np.ones(8000), w]
    assert disentangle.factor_score(shared, np.c_[v, u]) < 0.6


def test_factor_score_does_not_depend_on_scale_nor_on_constant_codes():
    codes, factors = rotated(30)
    same = disentangle.factor_score(codes, factors)
    assert disentangle.factor_score(np.c_[codes * [100.0, -0.01], np.ones(10_000)], factors) == same
    with pytest.raises(ValueError, match="all codes are constant"):
        disentangle.factor_score(np.ones((9, 2)), factors[:9])


def test_mig_and_dci_take_under_five_seconds_for_ten_thousand_cells():
    factors = np.random.default_rng(0).normal(size=(10_000, 10))
    codes = factors + 0.3 * np.random.default_rng(1).normal(size=(10_000, 10))
    start = time.process_time()
    disentangle.mig(codes, factors), disentangle.dci(codes, factors)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "codes, factors, says",
    [
        (np.zeros((5, 2)), np.zeros((4, 2)), "one row a cell"),
        (np.zeros((5, 1)), np.eye(5), "at least two columns"),
        (np.full((5, 2), np.nan), np.eye(5), "NaN"),
        (np.eye(5), np.ones((5, 2)), "drop its column"),
    ],
)
def test_bad_codes_and_factors_are_refused(codes, factors, says):
    for score in (disentangle.mig, disentangle.dci, disentangle.sap, disentangle.factor_score):
        with pytest.raises(ValueError, match=says):
            score(codes, factors)


def test_a_forest_with_nothing_to_split_on_is_refused_and_not_nan():
    codes = np.random.default_rng(0).normal(size=(400, 3))
    sorted_types = np.eye(4)[np.repeat(range(4), 100)]  # the last type is held out whole
    for z, v in ((codes, sorted_types), (codes[:3], codes[:3]), (np.ones((400, 3)), codes)):
        with pytest.raises(ValueError, match="shuffle the rows"), warnings.catch_warnings(action="ignore"):
            disentangle.dci(z, v)


def test_a_factor_of_as_many_values_as_bins_keeps_its_levels_however_they_are_spaced():
    level = np.random.default_rng(0).integers(20, size=5000)
    codes = np.stack([level, level == 19], 1)  # cut by width, 2^level is little more than the second code
    shared = mutual_info_score(level, level == 19) / mutual_info_score(level, level)
    assert disentangle.mig(codes, 2.0 ** level[:, None], bins=20) == pytest.approx(1 - shared, abs=1e-9)


def test_information_needs_two_intervals():
    with pytest.raises(ValueError, match="two intervals"):
        disentangle.mig(*np.random.default_rng(0).standard_normal((2, 50, 2)), bins=1)


def test_a_total_correlation_that_cannot_be_estimated_is_refused():
    z = torch.randn(50, 3)
    for codes in (z[:3], z[:, :1], torch.cat([z, torch.ones(50, 1)], 1), z[0]):
        with pytest.raises(ValueError, match="two codes or more"):
            disentangle.total_correlation(codes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64])
def test_the_total_correlation_with_a_sum_of_other_codes_is_infinite_and_refused_until_that_column_is_dropped(
    seed, kind
):
    torch.manual_seed(seed)
    z = (10 * torch.randn(200, 3)).to(kind)
    z = torch.cat([z, z.sum(1, keepdim=True)], 1)
    with pytest.raises(ValueError, match="code 3 is a sum of others to the last digit"):
        disentangle.total_correlation(z)
    assert 0 < disentangle.total_correlation(z[:, :3]).item() < 0.2


def test_a_total_correlation_short_of_infinite_is_its_closed_form():
    z = correlated(50_000, 0)
    for rho in (0.99, 0.9999):
        pair = torch.stack([z[:, 0], rho * z[:, 0] + math.sqrt(1 - rho**2) * torch.randn(50_000)], 1)
        assert disentangle.total_correlation(pair).item() == pytest.approx(-0.5 * math.log(1 - rho**2), rel=0.01)


def test_a_total_correlation_of_codes_with_nan_is_refused_and_of_a_constant_that_rounds():
    z = torch.tensor([[0.0, 1.0], [1.0, math.nan], [2.0, 0.0], [1.0, 3.0]])
    with pytest.raises(ValueError, match="NaN"):
        disentangle.total_correlation(z)
    with pytest.raises(ValueError, match="none constant"):
        disentangle.total_correlation(torch.cat([torch.randn(49, 1), torch.full((49, 1), 0.1)], 1))


@pytest.mark.parametrize("kind", ["uint8", "int64", "float16", "float32", "csr", "coo"])
def test_codes_and_factors_of_every_kind_give_the_same_numbers(kind):
    codes = np.random.default_rng(0).integers(0, 9, (300, 3))
    factors = codes[:, :2] // 3
    to = lambda a: sparse.coo_matrix(a).asformat(kind) if kind in ("csr", "coo") else a.astype(kind)
    for measure in (disentangle.mig, disentangle.sap, disentangle.dci):
        assert measure(to(codes), to(factors)) == measure(codes.astype(float), factors.astype(float))


def test_independent_codes_of_few_cells_show_the_stated_bias():
    torch.manual_seed(0)
    found = torch.stack([disentangle.total_correlation(torch.randn(200, 10)) for _ in range(200)]).mean().item()
    assert found == pytest.approx(10 * 9 / (4 * 200), rel=0.1)


def test_dci_of_a_single_factor_is_refused():
    with pytest.raises(ValueError, match="at least two factors"):
        disentangle.dci(np.eye(5), np.arange(5)[:, None])


def test_the_total_correlation_of_a_gaussian_is_its_closed_form():
    exact = -0.5 * math.log(1 - RHO**2)
    found = [disentangle.total_correlation(correlated(20_000, seed)).item() for seed in range(5)]
    assert np.mean(found) == pytest.approx(exact, rel=0.03)
    torch.testing.assert_close(
        disentangle.total_correlation(correlated(500, 0) * torch.tensor([5.0, -0.1])),
        disentangle.total_correlation(correlated(500, 0)),
    )


def test_the_discriminator_finds_the_total_correlation_within_five_percent():
    torch.manual_seed(0)
    z, fresh = correlated(20_000, 0), correlated(100_000, 1)
    net = mlp(2, 64, 1)
    loss = lambda b: disentangle.discriminator_loss(net, b["z"])
    for n, lr in ((250, 1e-2), (100, 1e-3)):
        for report in train.steps(net, loss, [{"z": part} for part in z.split(2000)], n=n, lr=lr):
            pass
    exact = -0.5 * math.log(1 - RHO**2)
    with torch.no_grad():
        assert net(fresh).mean().item() == pytest.approx(exact, rel=0.05)
    assert report["loss"] < math.log(2)


def test_the_best_logit_is_the_log_density_ratio():
    """Given the exact ratio, the estimate is the total correlation, and no other logit has a lower loss."""
    z = correlated(50_000, 0)
    precision = torch.linalg.inv(torch.tensor([[1, RHO], [RHO, 1]]))
    exact = -0.5 * math.log(1 - RHO**2)
    ratio = lambda z: (exact - 0.5 * ((z @ precision * z).sum(-1) - (z**2).sum(-1)))[:, None]
    torch.manual_seed(0)
    best = disentangle.discriminator_loss(ratio, z)
    assert best["tc"].item() == pytest.approx(exact, rel=0.03)
    for other in (lambda z: 0 * z[:, :1], lambda z: 0.5 * ratio(z), lambda z: 2 * ratio(z), lambda z: ratio(z) + 0.5):
        assert disentangle.discriminator_loss(other, z)["loss"] > best["loss"]


def test_the_parts_of_the_kl_sum_to_it_and_are_the_closed_form_in_the_linear_case():
    """At the optimum of a linear VAE q(z) is the prior: all of the KL is information."""
    torch.manual_seed(0)
    signal = torch.tensor([0.9, 0.5, 0.0])  # Var of the posterior mean; the posterior's own is 1 - signal
    mean = torch.randn(3000, 3) * signal.sqrt()
    q = Independent(Normal(mean, (1 - signal).sqrt().expand(3000, 3)), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    parts = disentangle.kl_parts(q, prior)
    kl = torch.distributions.kl_divergence(q, prior).mean()
    assert sum(parts.values()).item() == pytest.approx(kl.item(), abs=0.1)
    information = -0.5 * (1 - signal).log().sum().item()
    assert parts["information"].item() == pytest.approx(information, abs=0.06)
    assert abs(parts["total_correlation"]) < 0.03 and abs(parts["dimensions"]) < 0.03


def test_information_never_exceeds_the_logarithm_of_the_number_of_cells():
    torch.manual_seed(0)
    q = Independent(Normal(10 * torch.randn(50, 2), 1e-3 * torch.ones(50, 2)), 1)
    parts = disentangle.kl_parts(q, Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
    assert parts["information"].item() == pytest.approx(math.log(50), abs=1e-4)


def test_the_total_correlation_part_is_that_of_correlated_codes():
    torch.manual_seed(0)
    width = 0.3
    q = Independent(Normal(correlated(4000, 0), width * torch.ones(4000, 2)), 1)
    parts = disentangle.kl_parts(q, Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
    exact = -0.5 * math.log(1 - (RHO / (1 + width**2)) ** 2)
    assert parts["total_correlation"].item() == pytest.approx(exact, abs=0.04)


def small_vae():
    torch.manual_seed(0)
    return vae.VAE(vae.Encoder(6, 2, 16), vae.GaussianDecoder(nn.Linear(2, 6)), 2)


def test_factor_loss_without_its_penalty_is_the_negative_elbo():
    model, net, x = small_vae(), mlp(2, 8, 1), torch.randn(50, 6)
    torch.manual_seed(1)
    ours = disentangle.factor_loss(net, *vae.terms(model, x), gamma=0.0)
    torch.manual_seed(1)
    torch.testing.assert_close(ours["loss"], vae.loss(model, {"x": x})["loss"])


@pytest.mark.parametrize("logit", [2.0, -2.0])
def test_factor_loss_adds_gamma_times_the_discriminators_mean_logit_and_pushes_the_encoder(logit):
    model, x = small_vae(), torch.randn(50, 6)
    always = lambda z: torch.full((len(z), 1), logit)
    values = []
    for gamma in (0.0, 3.0):
        torch.manual_seed(1)
        values.append(disentangle.factor_loss(always, *vae.terms(model, x), gamma=gamma)["loss"])
    assert (values[1] - values[0]).item() == pytest.approx(3 * logit, abs=1e-5)
    disentangle.factor_loss(lambda z: z[:, :1], *vae.terms(model, x), gamma=1.0)["tc"].backward()
    assert model.encoder.net[0].weight.grad.abs().sum() > 0


def test_the_discriminator_trains_no_encoder():
    model, net = small_vae(), mlp(2, 8, 1)
    z = model.posterior(torch.randn(50, 6)).rsample()
    disentangle.discriminator_loss(net, z)["loss"].backward()
    assert model.encoder.net[0].weight.grad is None and net[0].weight.grad.abs().sum() > 0
