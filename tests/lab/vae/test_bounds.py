"""The ELBO against models whose evidence and posterior are known."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from lab import nets, vae


class LinearGaussian(nn.Module):
    """z ~ N(0, 1), x | z ~ N(z, 1), so p(x) = N(0, 2) and p(z | x) = N(x / 2, 1 / 2)."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def prior(self, cond=None):
        return Independent(Normal(torch.zeros(1), 1.0), 1)

    def posterior(self, x, cond=None):
        return Independent(Normal(x / 2, math.sqrt(0.5)) if self.exact else Normal(x * 0, 1.0), 1)

    def likelihood(self, z, cond=None):
        return Independent(Normal(z, 1.0), 1)


X = torch.tensor([[-2.0], [0.3], [1.5]])
LOG_P = Normal(0, math.sqrt(2)).log_prob(X).squeeze(-1)


@pytest.mark.parametrize("k", [1, 3])
def test_the_bound_is_log_p_itself_when_the_posterior_is_exact(k):
    torch.testing.assert_close(vae.iwae_bound(LinearGaussian(True), X, k=k), LOG_P)


def test_elbo_and_loss_are_the_same_number():
    model = vae.count_vae(20)
    x = torch.poisson(torch.rand(6, 20, generator=torch.Generator().manual_seed(0)) * 4) + 1
    library = {"log_library": x.sum(-1, keepdim=True).log()}
    torch.manual_seed(1)
    report = vae.loss(model, library | {"x": x})
    torch.manual_seed(1)
    torch.testing.assert_close(report["loss"], -vae.elbo(model, x, library).mean())
    torch.testing.assert_close(report["loss"], report["kl"] - report["recon"])
    assert report["kl"] >= 0


@pytest.mark.parametrize("seed", range(3))
def test_bounds_rise_with_k_towards_log_p_and_start_at_the_exact_elbo(seed):
    torch.manual_seed(seed)
    model = LinearGaussian(False)
    x, n = X.repeat(20_000, 1), 20_000
    bounds = {k: vae.iwae_bound(model, x, k=k).view(n, 3) for k in (1, 8, 64)}
    mean, error = ({k: f(b, 0) for k, b in bounds.items()} for f in (torch.mean, lambda b, _: b.std(0) / n**0.5))
    exact_elbo = -0.5 * math.log(2 * math.pi) - 0.5 * (X.squeeze() ** 2 + 1)  # E_q[log p(x|z)], for q = prior
    gap = kl_divergence(model.posterior(X), LinearGaussian(True).posterior(X))  # KL(q(z|x) || p(z|x))
    torch.testing.assert_close(LOG_P - exact_elbo, gap)
    assert ((mean[1] - exact_elbo).abs() < 4 * error[1]).all()
    assert (mean[1] < mean[8]).all() and (mean[8] < mean[64]).all() and (mean[64] < LOG_P + 4 * error[64]).all()


def linear_vae(d, k, w, mean, var):
    """The linear-Gaussian VAE with decoder N(w z + mean, var) and its best diagonal posterior."""
    precision = torch.eye(k).double() + w.T @ w / var  # of p(z | x)
    decoder = nn.Linear(k, d).double()
    encoder_mean = torch.linalg.solve(precision, w.T) / var
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(mean)

    class Encode(nn.Module):
        def forward(self, x, cond=None):
            return torch.cat([(x - mean) @ encoder_mean.T, (-0.5 * precision.diagonal().log()).expand(len(x), k)], -1)

    gaussian = vae.GaussianDecoder(decoder)
    gaussian.log_std = nn.Parameter(torch.tensor(0.5 * math.log(var)).double())
    return vae.VAE(Encode(), gaussian, k).double(), 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))


@pytest.mark.parametrize("seed", range(3))
def test_at_the_ppca_optimum_the_elbo_is_sklearns_likelihood_and_a_rotation_opens_the_known_gap(seed):
    rng, n, d, k = np.random.default_rng(seed), 400, 6, 2
    x = (
        rng.normal(size=(n, k)) * [3, 1] @ np.linalg.qr(rng.normal(size=(d, k)))[0].T * 1.5
        + rng.normal(size=(n, d)) * 0.5
    )
    eig, u = np.linalg.eigh(np.cov(x.T))
    eig, u = eig[::-1], u[:, ::-1]
    var = eig[k:].mean()
    w = torch.tensor(u[:, :k] * np.sqrt(eig[:k] - var))
    angle = 0.6
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    x_, reference = torch.tensor(x), PCA(k).fit(x).score(x)
    for turn, name in ((torch.eye(2).double(), "axes"), (rotation, "rotated")):
        model, gap = linear_vae(d, k, w @ turn, x_.mean(0), var)
        torch.manual_seed(0)
        elbo = torch.stack([vae.elbo(model, x_).mean() for _ in range(400)])
        assert abs(elbo.mean().item() - (reference - gap.item())) < 4 * elbo.std().item() / 20
        assert (gap < 1e-10) if name == "axes" else (gap > 0.01)


def test_a_trained_linear_vae_finds_the_principal_subspace():
    torch.manual_seed(0)
    x = torch.randn(500, 2) @ torch.randn(2, 8) * 2 + torch.randn(500, 8) * 0.4

    class Linear(nn.Linear):
        def forward(self, x, cond=None):
            return super().forward(x)

    model = vae.VAE(Linear(8, 4), vae.GaussianDecoder(nn.Linear(2, 8)), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(1500):
        optimizer.zero_grad()
        vae.loss(model, {"x": x})["loss"].backward()
        optimizer.step()
    u = PCA(2).fit(x).components_.T
    assert np.rad2deg(subspace_angles(model.decoder.net.weight.detach().numpy(), u)).max() < 2


def test_active_units_counts_the_coordinates_that_move():
    class Fixed(nn.Module):
        def forward(self, x, cond=None):
            return torch.cat([x[:, :2], torch.zeros(len(x), 1), torch.zeros(len(x), 3)], -1)

    model = vae.VAE(Fixed(), None, 3)
    assert vae.active_units(model, torch.randn(500, 4)) == 2
    for x in (torch.randn(1, 4), torch.full((500, 4), math.nan)):  # no collapse: nothing to count with
        with pytest.raises(ValueError, match="two cells or more"):
            vae.active_units(model, x)


@pytest.mark.parametrize("log_std", [-60.0, 60.0])
def test_an_encoder_that_runs_away_costs_nats_and_not_the_training(log_std):
    class Away(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Parameter(torch.tensor([0.5, -0.5, log_std, 0.0]))

        def forward(self, x, cond=None):
            return self.out.expand(len(x), 4)

    torch.manual_seed(0)
    model = vae.VAE(Away(), vae.GaussianDecoder(nn.Linear(2, 6)), 2)
    parts = vae.loss(model, {"x": torch.randn(8, 6)})
    parts["loss"].backward()
    assert parts["kl"] > 30 and all(p.grad.isfinite().all() for p in model.parameters())


def test_a_share_that_rounds_to_zero_is_an_unlikely_count_and_not_nan():
    logits = torch.tensor([[0.0, 200.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    decoder = nets.CountDecoder(nn.Identity(), nets.NB(3))
    cond, x = {"log_library": torch.full((2, 1), 5.0)}, torch.tensor([[0.0, 140, 0], [3.0, 140, 0]])
    nats = decoder(logits, cond).log_prob(x)
    nats.sum().backward()
    assert nats[0] > -10 and -1000 < nats[1] < -100 and logits.grad.isfinite().all()


def test_beta_weights_the_kl_alone():
    torch.manual_seed(0)
    model, x = vae.VAE(vae.Encoder(6, 2, 16), vae.GaussianDecoder(nn.Linear(2, 6)), 2), torch.randn(50, 6)
    parts = vae.loss(model, {"x": x}, beta=3.0)
    torch.testing.assert_close(parts["loss"], 3 * parts["kl"] - parts["recon"])


def test_the_count_decoder_hands_out_exactly_the_library():
    model = vae.count_vae(30)
    mean = model.likelihood(torch.randn(7, 10), {"log_library": torch.full((7, 1), math.log(1234.0))}).mean
    torch.testing.assert_close(mean.sum(-1), torch.full((7,), 1234.0))


def test_weights_that_float32_cannot_see_get_exactly_no_gradient():
    """Their gradients would be subnormal numbers further on, on which a CPU is slow: 2.7 times a step of K = 50."""

    class Watched(LinearGaussian):
        def likelihood(self, z, cond=None):
            self.z = z
            z.retain_grad()
            return super().likelihood(z, cond)

    torch.manual_seed(0)
    model, x = Watched(False), torch.full((2, 1), 30.0, requires_grad=True)
    loss = vae.iwae_loss(model, {"x": x}, k=500)["loss"]
    loss.backward()
    log_w = Normal(model.z.detach(), 1.0).log_prob(torch.tensor(30.0)).squeeze(-1)  # q is the prior: they cancel
    torch.testing.assert_close(-loss, (log_w.logsumexp(0) - math.log(500)).mean())
    small = log_w < log_w.amax(0) - 40
    assert (
        small.any() and (model.z.grad.squeeze(-1)[small] == 0).all() and (model.z.grad.squeeze(-1)[~small] != 0).any()
    )


def test_the_terms_of_the_elbo_are_those_of_its_loss_and_their_z_is_the_one_decoded():
    torch.manual_seed(0)
    model, b = vae.count_vae(20, 3), {"x": torch.poisson(3 * torch.rand(6, 20)) + 1}
    b["log_library"] = b["x"].sum(1, keepdim=True).log()
    torch.manual_seed(1)
    recon, kl, z = vae.terms(model, b["x"], b)
    torch.manual_seed(1)
    report = vae.loss(model, b, beta=3.0)
    assert recon.shape == kl.shape == (6,) and z.shape == (6, 3)
    torch.testing.assert_close(report["loss"], (3 * kl - recon).mean())
    torch.testing.assert_close(recon, model.likelihood(z, b).log_prob(b["x"]))
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(model.posterior(b["x"], b), model.prior()))


def test_a_model_knows_its_genes_and_the_levels_of_both_its_networks():
    model = vae.count_vae(20, conditions={"tissue": 5}, counts=nets.NB(20, by=("batch", 3)))
    assert model.n_genes == 20 and model.levels == {"tissue": 5, "batch": 3}
    wrapped = vae.VAE(vae.Encoder(20, 11), vae.LearnedLibrary(model.decoder, 6.0, 0.5), 11)
    assert wrapped.levels == model.levels
    own = vae.VAE(lambda x, cond: x, nn.Linear(2, 8), 2)  # a reader's networks need say nothing
    assert own.n_genes is None and own.levels == {}
