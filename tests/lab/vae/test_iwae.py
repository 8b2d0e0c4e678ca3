"""The bound of K samples against exact evidences, and the two estimators of its encoder's gradient."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from lab import vae


def normal(mean, variance):
    return Independent(Normal(mean, variance**0.5, validate_args=False), 1)


class Copies(nn.Module):
    """z ~ N(mu, 1), x | z ~ N(z, 1), q = N(x / 2 + b, variance): n copies of one cell, each with its own mu and b, so
    that one backward pass gives n independent gradients. At mu = 0 the posterior is N(x / 2, 1 / 2)."""

    def __init__(self, n=1, offset=0.5, variance=2 / 3, dtype=torch.float64):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(n, 1, dtype=dtype))
        self.b = nn.Parameter(torch.full((n, 1), offset, dtype=dtype))
        self.variance = variance

    def prior(self, cond=None):
        return normal(self.mu, 1.0)

    def posterior(self, x, cond=None):
        return normal(x / 2 + self.b, self.variance)

    def likelihood(self, z, cond=None):
        return normal(z, 1.0)


X = 2.0
LOG_P = norm.logpdf(X, scale=2**0.5)


def chi2(mean_p, v_p, mean_q, v_q):
    """Chi-squared divergence from N(mean_p, v_p) to N(mean_q, v_q); needs 2 v_q > v_p."""
    return math.sqrt(v_q**2 / (v_p * (2 * v_q - v_p))) * math.exp((mean_p - mean_q) ** 2 / (2 * v_q - v_p)) - 1


def gaps(k, n, **guess):
    """Unbiased estimates (n,) of log p - L_k, each at least 0: exp(d) - 1 has mean 0, and takes the noise of d away."""
    with torch.no_grad():
        d = vae.iwae_bound(Copies(**guess), torch.full((n, 1), X, dtype=torch.float64), k=k) - LOG_P
    return d.expm1() - d


def gradients(k, n, doubly, dtype=torch.float32):
    """d bound / d (mu, b), (n, 2): one row per copy."""
    model, x = Copies(n, dtype=dtype), torch.full((n, 1), X, dtype=dtype)
    bound = -vae.iwae_loss(model, {"x": x}, k=k, doubly=doubly)["loss"] * n
    return torch.cat(torch.autograd.grad(bound, (model.mu, model.b)), 1)


def count_cells(n=6, genes=20, seed=0):
    x = torch.poisson(torch.rand(n, genes, generator=torch.Generator().manual_seed(seed)) * 4) + 1
    return {"x": x, "log_library": x.sum(-1, keepdim=True).log(), "batch": torch.arange(n) % 2}


def gradient_of(model, b, seed, **settings):
    model.zero_grad()
    torch.manual_seed(seed)
    report = vae.iwae_loss(model, b, **settings)
    report["loss"].backward()
    return report, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_the_closed_chi_squared_is_its_integral():
    integral = quad(lambda z: norm.pdf(z, 1, 0.5**0.5) ** 2 / norm.pdf(z, 1.5, (2 / 3) ** 0.5), -12, 14)[0]
    assert abs(integral - 1 - chi2(1, 0.5, 1.5, 2 / 3)) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_rises_from_the_kl_gap_to_chi_squared_over_2k(seed):
    torch.manual_seed(seed)
    guess = {"offset": 0.3}
    found = {k: gaps(k, 4_000_000 // max(k, 20), **guess) for k in (1, 2, 5, 20, 50)}
    mean, error = ({k: f(g).item() for k, g in found.items()} for f in (torch.mean, lambda g: g.std() / len(g) ** 0.5))
    kl = kl_divergence(Normal(1.3, (2 / 3) ** 0.5), Normal(1.0, 0.5**0.5)).item()
    assert abs(mean[1] - kl) < 5 * error[1]
    assert all(mean[b] < mean[a] + 2 * error[a] for a, b in zip((1, 2, 5, 20), (2, 5, 20, 50)))
    assert abs(mean[50] / (chi2(1, 0.5, 1.3, 2 / 3) / 100) - 1) < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_a_guess_less_than_half_as_wide_as_the_posterior_loses_the_rate(seed):
    torch.manual_seed(seed)
    slope = {
        v: np.polyfit(
            np.log([10, 40, 160]),
            np.log([gaps(k, 800_000 // k, offset=0.0, variance=v).mean().item() for k in (10, 40, 160)]),
            1,
        )[0]
        for v in (2 / 3, 0.1)
    }
    assert slope[2 / 3] < -0.9 and slope[0.1] > -0.6


def test_the_mean_of_the_weights_is_the_evidence_whatever_the_guess():
    torch.manual_seed(0)
    with torch.no_grad():
        log_w, z = vae.log_weights(Copies(offset=-0.4), torch.full((1000, 1), X, dtype=torch.float64), k=1000)
    ratio = (log_w - LOG_P).exp()
    assert log_w.shape == (1000, 1000) and z.shape == (1000, 1000, 1)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 1000


def test_ess_runs_from_one_to_k_and_its_share_tends_to_one_over_one_plus_chi_squared():
    x = torch.full((200, 1), X, dtype=torch.float64)
    torch.manual_seed(0)
    ess = {k: vae.iwae_loss(Copies(200, 0.3), {"x": x}, k=k)["ess"].item() for k in (1, 7, 2000)}
    assert ess[1] == pytest.approx(1) and 1 < ess[7] < 7
    assert ess[2000] / 2000 == pytest.approx(1 / (1 + chi2(1, 0.5, 1.3, 2 / 3)), rel=0.05)
    exact = vae.iwae_loss(Copies(200, 0.0, 0.5), {"x": x}, k=50)["ess"]
    assert exact.item() == pytest.approx(50)  # the guess is the posterior: all weights are equal


def test_ess_is_a_mean_over_cells():
    """One cell of equal weights and one where a single weight takes all, 10 and 1: their mean, not the harmonic one."""

    class Two(Copies):
        def posterior(self, x, cond=None):
            return normal(x / 2, torch.tensor([[0.5], [1e8]], dtype=torch.float64))

    torch.manual_seed(0)
    ess = vae.iwae_loss(Two(2), {"x": torch.full((2, 1), X, dtype=torch.float64)}, k=10)["ess"].item()
    assert 5.5 <= ess < 6


@pytest.mark.parametrize("doubly", [False, True])
def test_one_sample_is_the_elbo_with_the_same_noise(doubly):
    model, b = vae.count_vae(20), count_cells()
    torch.manual_seed(3)
    loss = vae.iwae_loss(model, b, k=1, doubly=doubly)["loss"]
    torch.manual_seed(3)
    q = model.posterior(b["x"], b)
    z = q.rsample((1,))[0]
    elbo = model.likelihood(z, b).log_prob(b["x"]) - (q.log_prob(z) - model.prior().log_prob(z))
    torch.testing.assert_close(loss, -elbo.mean())
    torch.manual_seed(3)
    torch.testing.assert_close(loss, -vae.iwae_bound(model, b["x"], b, k=1).mean())


@pytest.mark.parametrize("doubly", [False, True])
@pytest.mark.parametrize("k", [2, 9])
def test_the_loss_is_minus_the_mean_bound_with_the_same_noise(k, doubly):
    model, b = vae.count_vae(20), count_cells()
    torch.manual_seed(3)
    loss = vae.iwae_loss(model, b, k=k, doubly=doubly)["loss"]
    torch.manual_seed(3)
    torch.testing.assert_close(loss, -vae.iwae_bound(model, b["x"], b, k=k).mean())


@pytest.mark.parametrize("seed", range(3))
def test_doubly_leaves_the_value_and_every_decoder_gradient_as_they_are(seed):
    torch.manual_seed(seed)
    model, b = vae.count_vae(20, 3, conditions={"batch": 2}), count_cells(seed=seed)
    (plain, at_plain), (doubly, at_doubly) = (gradient_of(model, b, seed, k=6, doubly=d) for d in (False, True))
    torch.testing.assert_close(plain["loss"], doubly["loss"])
    torch.testing.assert_close(plain["ess"], doubly["ess"])
    for name in at_plain:
        same = torch.allclose(at_plain[name], at_doubly[name], rtol=1e-4, atol=1e-5)
        assert same == name.startswith("decoder"), name


@pytest.mark.parametrize("seed", range(3))
def test_both_estimators_have_the_gradient_of_the_exact_bound_and_doubly_less_noise(seed):
    """k = 2, where the bound is a two-dimensional integral: its derivative in b, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def bound(b):
        z = 1 + b + (2 / 3) ** 0.5 * nodes
        log_w = norm.logpdf(z) + norm.logpdf(X, z) - norm.logpdf(z, 1 + b, (2 / 3) ** 0.5)
        return weights @ (np.logaddexp(log_w[:, None], log_w) - np.log(2)) @ weights

    exact = (bound(0.5 + 1e-4) - bound(0.5 - 1e-4)) / 2e-4
    torch.manual_seed(seed)
    plain, doubly = (gradients(2, 100_000, d, torch.float64)[:, 1] for d in (False, True))
    for g in (plain, doubly):
        assert abs(g.mean() - exact) < 4 * g.std() / len(g) ** 0.5
    assert doubly.std() < plain.std() / 3


@pytest.mark.parametrize("seed", range(3))
def test_the_signal_to_noise_ratios_have_rainforths_slopes_and_doubly_repairs_the_encoders(seed):
    torch.manual_seed(seed)
    samples = (4, 16, 64, 128)
    snr = {
        d: [(g.mean(0).abs() / g.std(0)).numpy() for g in (gradients(k, 60_000, d) for k in samples)]
        for d in (False, True)
    }
    slope = lambda values: np.polyfit(np.log(samples), np.log(values), 1)[0]
    assert abs(slope([s[0] for s in snr[False]]) - 0.5) < 0.1  # decoder
    assert abs(slope([s[1] for s in snr[False]]) + 0.5) < 0.1  # encoder
    assert abs(slope([s[1] for s in snr[True]]) - 0.5) < 0.1  # encoder, doubly reparameterised


def test_where_the_guess_is_the_posterior_the_doubly_reparameterised_gradient_is_zero():
    """Every weight is then p(x), a constant in z: nothing is left but the score, which is gone."""
    x = torch.full((5, 1), X, dtype=torch.float64)
    for doubly in (False, True):
        model = Copies(5, 0.0, 0.5)
        vae.iwae_loss(model, {"x": x}, k=8, doubly=doubly)["loss"].backward()
        assert (model.b.grad.abs().max() < 1e-12) == doubly


def test_on_counts_the_two_encoder_gradients_agree_in_expectation():
    torch.manual_seed(0)
    model, b = vae.count_vae(12, 2, 8, conditions={"batch": 2}).double(), count_cells(4, 12)
    b = {name: value.double() if value.is_floating_point() else value for name, value in b.items()}
    bias = "encoder.net.2.bias"
    draws = {
        d: torch.stack([gradient_of(model, b, 2 * s + d, k=4, doubly=d)[1][bias] for s in range(600)])
        for d in (False, True)
    }
    difference = draws[True].mean(0) - draws[False].mean(0)
    error = sum(d.var(0) / len(d) for d in draws.values()).sqrt()
    assert (difference.abs() < 4.5 * error).all()


@pytest.mark.parametrize("doubly", [False, True])
def test_bfloat16_autocast_keeps_densities_in_float32_and_backpropagates(doubly):
    torch.manual_seed(0)
    model, b = vae.count_vae(50, 5), count_cells(16, 50)
    full, at_full = gradient_of(model, b, 1, k=5, doubly=doubly)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.posterior(b["x"]).mean.dtype == torch.float32
        half, at_half = gradient_of(model, b, 1, k=5, doubly=doubly)
    assert half["loss"].dtype == torch.float32 and abs(half["loss"] - full["loss"]) < 0.1
    for name in at_full:
        assert torch.cosine_similarity(at_full[name].flatten(), at_half[name].flatten(), 0) > 0.99, name


def test_a_frozen_encoder_and_no_grad_take_doubly_too():
    model, b = vae.count_vae(20), count_cells()
    model.encoder.requires_grad_(False)
    vae.iwae_loss(model, b, k=3, doubly=True)["loss"].backward()
    assert all(p.grad is not None for p in model.decoder.parameters())
    with torch.no_grad():
        vae.iwae_loss(model, b, k=3, doubly=True)


def test_no_samples_are_refused():
    model, b = vae.count_vae(20), count_cells()
    for take in (vae.iwae_bound, vae.log_weights, lambda model, x, b, k: vae.iwae_loss(model, b, k=k)):
        with pytest.raises(ValueError, match="at least one sample"):
            take(model, b["x"], b, k=0)


def test_the_bound_on_counts_approaches_the_trapezoids_evidence_from_below():
    torch.manual_seed(0)
    model, b = vae.count_vae(30, 1).double(), count_cells(5, 30)
    b = {name: value.double() for name, value in b.items()}
    with torch.no_grad():
        z = torch.linspace(-8, 8, 2001).double()[:, None, None]
        log_joint = model.likelihood(z.expand(-1, 5, 1), b).log_prob(b["x"]) + model.prior().log_prob(z)
        exact = log_joint.logsumexp(0) + math.log(16 / 2000)
        log_w = torch.cat([vae.log_weights(model, b["x"], b, k=2000)[0] for _ in range(20)])
    d = {k: log_w.view(-1, k, 5).logsumexp(1) - math.log(k) - exact for k in (1, 10, 100, 1000)}
    mean, error = ({k: f(v) for k, v in d.items()} for f in (lambda v: v.mean(0), lambda v: v.std(0) / len(v) ** 0.5))
    assert all((mean[a] < mean[b]).all() for a, b in ((1, 10), (10, 100)))
    assert all((mean[k] < 4 * error[k]).all() for k in d)
    assert (mean[1] < -0.1).all() and (mean[1000].abs() < 0.01).all()
