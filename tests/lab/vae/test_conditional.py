"""Conditional VAEs: the linear one is least squares and PCA, and chapter 2's call takes real data."""

import numpy as np
import pytest
import torch
from torch import nn

from lab import data, nets, train, vae

LEVELS = {"tissue": 3, "batch": 2}


def minibatch(n=6, genes=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(n, genes, generator=g) * 4, generator=g) + 1
    return {
        "x": x,
        "log_library": x.sum(-1, keepdim=True).log(),
        "tissue": torch.arange(n) % 3,
        "batch": torch.arange(n) % 2,
    }


@pytest.mark.parametrize("k", [None, 3])
def test_every_sample_of_z_gets_its_own_cells_condition(k):
    """Scoring cells one by one gives the numbers of the minibatch, with and without a leading axis of samples."""
    torch.manual_seed(0)
    model, b = vae.count_vae(20, 4, 16, conditions=LEVELS), minibatch()
    z = torch.randn(*(() if k is None else (k,)), 6, 4)
    whole = model.likelihood(z, b).log_prob(b["x"])
    for i in range(6):
        one = {name: value[i : i + 1] for name, value in b.items()}
        torch.testing.assert_close(
            model.likelihood(z[..., i : i + 1, :], one).log_prob(one["x"])[..., 0], whole[..., i]
        )


def test_without_conditions_the_model_is_the_one_of_chapter_1():
    torch.manual_seed(0)
    plain = vae.count_vae(20, 4, 16)
    torch.manual_seed(0)
    empty = vae.count_vae(20, 4, 16, conditions={})
    b = minibatch()
    torch.manual_seed(1)
    one = vae.elbo(plain, b["x"], b)
    torch.manual_seed(1)
    torch.testing.assert_close(vae.elbo(empty, b["x"], {k: b[k] for k in ("x", "log_library")}), one)


def test_only_the_condition_that_is_changed_moves_the_counterfactual():
    torch.manual_seed(0)
    model, b = vae.count_vae(20, 4, 16, conditions=LEVELS), minibatch()
    z = model.posterior(b["x"], b).mean
    fact = model.likelihood(z, b).mean
    torch.testing.assert_close(model.likelihood(z, b | {"batch": b["batch"].clone()}).mean, fact)
    assert (model.likelihood(z, b | {"batch": 1 - b["batch"]}).mean - fact).abs().max() > 1e-3


def test_a_count_decoder_without_the_depth_is_refused():
    model, b = vae.count_vae(20), minibatch()
    for cond in (None, {"x": b["x"]}):
        with pytest.raises(ValueError, match="needs log_library"):
            vae.elbo(model, b["x"], cond)


def test_a_model_with_conditions_refuses_to_run_without_a_minibatch():
    with pytest.raises(ValueError, match="load that column"):
        vae.count_vae(20, conditions=LEVELS).posterior(minibatch()["x"])


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_conditional_vae_is_least_squares_then_ppca(seed):
    """Evidence within 0.05 nats of the closed form, never above it; the decoded effect is the regression's."""
    rng, n = np.random.default_rng(seed), 800
    effect, loadings = 2.5 * rng.standard_normal(8), rng.standard_normal((8, 2))
    y = rng.integers(2, size=n)
    x = np.outer(y, effect) + rng.standard_normal((n, 2)) @ loadings.T + 0.6 * rng.standard_normal((n, 8))
    design = np.column_stack([np.ones(n), y])
    coefficients = np.linalg.lstsq(design, x, rcond=None)[0]
    eigenvalues = np.linalg.eigvalsh(np.cov((x - design @ coefficients).T, bias=True))
    noise = eigenvalues[:6].mean()
    best = -0.5 * (8 * np.log(2 * np.pi) + np.log(eigenvalues[6:]).sum() + 6 * np.log(noise) + 8)

    class Encode(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.net = nets.ConditionEmbedding({"y": 2}, n_embed=2), nn.Linear(10, 4)

        def forward(self, x, cond=None):
            return self.net(self.embed(x, cond))

    torch.manual_seed(seed)
    model = vae.VAE(Encode(), vae.GaussianDecoder(nn.Linear(4, 8), nets.ConditionEmbedding({"y": 2}, n_embed=2)), 2)
    b = {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y)}
    train.fit(model, lambda b: vae.loss(model, b), [b], n=1500, lr=2e-2)
    with torch.no_grad():
        means = torch.cat([model.likelihood(torch.zeros(1, 2), {"y": torch.tensor([k])}).mean for k in (0, 1)])
        w = model.decoder.net.weight[:, :2]
        covariance = w @ w.T + (2 * model.decoder.log_std).exp() * torch.eye(8)
        normal = torch.distributions.MultivariateNormal(torch.zeros(8), covariance)
        reached = normal.log_prob(b["x"] - means[b["y"]]).mean().item()
    assert best - 0.1 < reached < best + 1e-3
    assert np.abs((means[1] - means[0]).numpy() - coefficients[1]).max() < 0.15


@pytest.mark.real
def test_chapter_2_predicts_interferon_in_a_cell_type_it_saw_only_untreated(from_page):
    """The chapter's own functions, on Kang's cells: fold changes of held-out B cells correlate with observed ones."""
    chapter = from_page("book/latent/02-conditional-vae.md", "without", "response", "predicted")
    table = chapter["response"](data.prepare(data.kang(), 1000), "B", "perturbation", "IFN-beta")
    r = table.corr()["observed"]
    assert r["CVAE"] > 0.4 and r["delta"] > 0.4
