"""Denoiser: four predictions are one, the loss has its exact floor, and what needs no training is exact."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from lab import denoise, nets, sample, train
from lab import path as P
from lab.data import toys

PATHS = {"linear": P.linear(), "cosine": P.cosine(), "vp": P.vp(), "ve": P.ve(), "edm": P.edm(10.0)}
COV = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
TOY = toys.gaussian_mixture()


def of_toy(path, toy=TOY):
    return denoise.mixture(path, toy.means, std=toy.std, weights=toy.weights)


def as_prediction(denoiser, kind):
    """The same denoiser behind a network that predicts `kind`."""

    def net(x, t, cond=None):
        x0, eps = denoiser(x, t)
        sigma = P.like(denoiser.path.sigma(t), x)
        return {"x0": x0, "eps": eps, "score": -eps / sigma, "velocity": denoiser.path.velocity(x0, eps, t)}[kind]

    return denoise.Denoiser(net, denoiser.path, kind)


def some(n=256, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return x, torch.rand(n, generator=g, dtype=torch.float64) * 0.9 + 0.05


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", denoise.KINDS)
def test_the_four_predictions_are_one_denoiser(name, kind):
    x, t = some()
    exact = of_toy(PATHS[name])
    other = as_prediction(exact, kind)
    torch.testing.assert_close(other(x, t), exact(x, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(other.score(x, t), exact.score(x, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(other.velocity(x, t), exact.velocity(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stds", [(0.4, 0.4, 0.4), (0.2, 0.5, 1.0)])
@pytest.mark.parametrize("name", PATHS)
def test_the_denoiser_of_a_mixture_has_the_score_that_autograd_finds(name, stds):
    path, x = PATHS[name], some()[0].requires_grad_()
    toy = replace(TOY, std=torch.tensor(stds, dtype=torch.float64))
    for time in (0.05, 0.4, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        a, s = path.alpha(t), path.sigma(t)
        std = (a**2 * toy.std**2 + s**2).sqrt()[:, None].expand(3, 2)
        law = MixtureSameFamily(Categorical(TOY.weights), Independent(Normal(a * TOY.means, std), 1))
        (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
        torch.testing.assert_close(of_toy(path, toy).score(x, t), score, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(toy.noised(a, s).score(x), score, rtol=1e-9, atol=1e-9)


def test_one_time_for_all_is_that_time_for_each_cell():
    x, _ = some()
    for known in (of_toy(P.cosine()), denoise.gaussian(P.cosine(), MEAN, COV)):
        torch.testing.assert_close(known(x, torch.tensor(0.3)), known(x, torch.full((len(x),), 0.3)))
        mixed = torch.where(torch.arange(len(x)) % 2 == 0, 0.3, 0.7).double()
        torch.testing.assert_close(known(x, mixed)[0][::2], known(x[::2], mixed[0])[0])


@pytest.mark.parametrize("name", PATHS)
def test_the_denoiser_of_a_gaussian_has_its_score_and_is_a_mixture_of_one(name):
    path, (x, t) = PATHS[name], some()
    exact = denoise.gaussian(path, MEAN, COV)
    a, s = path.alpha(t[:1]), path.sigma(t[:1])
    law = MultivariateNormal(a * MEAN, a**2 * COV + s**2 * torch.eye(2))
    x.requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(exact.score(x, t[0]), score, rtol=1e-9, atol=1e-9)
    round_ = denoise.gaussian(path, MEAN, 0.49 * torch.eye(2).double())
    torch.testing.assert_close(round_(x, t), denoise.mixture(path, MEAN[None], std=0.7)(x, t))


def test_the_denoiser_of_a_finite_set_answers_with_a_cell_where_noise_is_small_and_the_mean_where_it_is_all():
    cells = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    exact, near = denoise.mixture(P.edm(), cells), torch.tensor(1e-4, dtype=torch.float64)
    torch.testing.assert_close(exact(cells + 1e-3, near)[0], cells)
    far = denoise.mixture(P.linear(), cells)
    torch.testing.assert_close(far(cells, torch.tensor(1.0))[0], cells.mean(0).expand(50, 3))


def test_far_from_all_cells_the_nearest_is_the_answer_and_nothing_overflows():
    cells = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    got = denoise.mixture(P.ve(), cells)(torch.tensor([[1e4, 0.0]]), torch.tensor(0.1))[0]
    torch.testing.assert_close(got, cells[1:])


@pytest.mark.parametrize("name, eta", [("linear", 0.0), ("cosine", 1.0)])
def test_ddim_carries_noise_to_the_mixture_with_its_weights(name, eta):
    path, times = PATHS[name], torch.linspace(0.999, 0.001, 200).double()
    torch.manual_seed(0)
    x = sample.last(sample.ddim(of_toy(path), torch.randn(8000, 2).double(), times, path, eta=eta))
    share = (x[:, None] - TOY.means).square().sum(-1).argmin(1).bincount() / len(x)
    assert (share - TOY.weights).abs().max() < 0.02


@pytest.mark.parametrize("kind", denoise.KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_the_exact_denoiser_is_its_floor_summed_over_features_and_averaged_over_cells(kind, seed):
    """Posterior covariance of each target, by algebra: x0 is unknown by (1 / cov + a^2 / s^2)^-1."""
    path, n = P.linear(), 50_000
    torch.manual_seed(seed)
    x = MultivariateNormal(MEAN, COV).sample((n,))
    denoiser = as_prediction(denoise.gaussian(path, MEAN, COV), kind)
    lam = torch.linalg.eigvalsh(COV)
    for time in (0.2, 0.7):
        a, s = 1 - time, time
        unknown = (1 / (1 / lam + a**2 / s**2)).sum().item()
        scale = {"x0": 1, "eps": (a / s) ** 2, "score": (a / s**2) ** 2, "velocity": 1 / s**2}[kind]
        b = {"x": x, "t": torch.full((n,), time).double()}
        assert denoise.loss(denoiser, b)["loss"].item() == pytest.approx(scale * unknown, rel=0.03)


def test_a_weight_turns_the_error_of_the_score_into_that_of_the_noise():
    x, t = some()
    exact = of_toy(P.cosine())
    b = {"x": TOY.means[torch.arange(256) % 3], "t": t, "eps": x / 3}
    score, eps = (as_prediction(exact, kind) for kind in ("score", "eps"))
    weighted = denoise.loss(score, b, weight=lambda t: score.path.sigma(t) ** 2)["loss"]
    torch.testing.assert_close(weighted, denoise.loss(eps, b)["loss"])
    cells = 2 * b["t"]
    torch.testing.assert_close(
        denoise.loss(eps, b, weight=lambda t: cells)["loss"],
        (
            cells
            * torch.stack([denoise.loss(eps, {k: v[i : i + 1] for k, v in b.items()})["loss"] for i in range(256)])
        ).mean(),
    )


def test_times_of_a_minibatch_fill_the_interval_evenly_and_stay_above_zero():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t, cond=None):
            seen.append(t)
            return x

    for seed in range(100):
        torch.manual_seed(seed)
        denoise.loss(denoise.Denoiser(Spy(), P.cosine()), {"x": torch.zeros(10, 2)})
    t = torch.stack(seen)  # (100, 10)
    assert ((t * 10).ceil().sort(1).values == torch.arange(1, 11)).all()
    assert t.min() > 0 and t.max() <= 1
    assert abs(t.mean() - 0.5) < 0.01 and (t[:, 0].diff().abs() > 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("seed", range(2))
def test_training_comes_close_to_the_exact_score(seed):
    torch.manual_seed(seed)
    path, x = P.cosine(), torch.tensor(TOY.sample(8192, seed).X)
    denoiser = denoise.Denoiser(nets.MLP(2, 2, n_hidden=64), path)
    loss = lambda b: denoise.loss(denoiser, b)
    train.fit(denoiser, loss, list({"x": part} for part in x.split(512)), n=500, lr=train.cosine(1e-2, 500))
    t = torch.tensor(0.5)
    noisy = path.interpolate(torch.tensor(TOY.sample(2000, 99).X), torch.randn(2000, 2), t)
    exact = of_toy(path).score(noisy, t)
    with torch.no_grad():
        error = (denoiser.score(noisy, t) - exact).norm() / exact.norm()
    assert error < 0.25


def conditional(null=True):
    embed = nets.ConditionEmbedding({"tissue": 3}, null=null, numbers={"dose": 1})
    torch.manual_seed(0)
    denoiser = denoise.Denoiser(nets.MLP(2, 2, n_hidden=16, embed=embed), P.cosine())
    if null:
        nn.init.normal_(embed.nulls["tissue"])
    return denoiser, {"tissue": torch.tensor([0, 1, 2, 0]), "dose": torch.rand(4)}


def test_guidance_of_0_drops_the_condition_1_is_conditional_and_between_and_beyond_is_a_line():
    denoiser, b = conditional()
    x, t = torch.randn(4, 2), torch.tensor(0.4)
    none = b | {"tissue": torch.full((4,), -1)}
    low, high = denoiser.score(x, t, none), denoiser.score(x, t, b)
    assert (low - high).abs().min() > 1e-3
    for scale in (0.0, 1.0, 0.5, 3.0):
        got = denoise.guided(denoiser, b, scale=scale)
        torch.testing.assert_close(got.score(x, t), low + scale * (high - low), rtol=1e-4, atol=1e-5)
        x0, eps = got(x, t)
        torch.testing.assert_close(P.cosine().interpolate(x0, eps, t), x)


def test_guidance_takes_a_mixture_of_levels_for_a_condition():
    denoiser, b = conditional()
    x, t = torch.randn(4, 2), torch.tensor(0.4)
    weights = b | {"tissue": nn.functional.one_hot(b["tissue"], 3).float()}
    got = [denoise.guided(denoiser, c, scale=2.0)(x, t) for c in (b, weights)]
    torch.testing.assert_close(*got)


def test_a_scale_that_is_a_function_of_time_guides_each_cell_by_its_own_time():
    denoiser, b = conditional()
    x, t = torch.randn(4, 2), torch.tensor([0.1, 0.4, 0.6, 0.9])
    within = denoise.guided(denoiser, b, scale=lambda t: 1 + 2 * ((t > 0.3) & (t < 0.7)))
    plain, strong = (denoise.guided(denoiser, b, scale=scale).score(x, t) for scale in (1.0, 3.0))
    torch.testing.assert_close(within.score(x, t)[[0, 3]], plain[[0, 3]])
    torch.testing.assert_close(within.score(x, t)[[1, 2]], strong[[1, 2]])
    assert (strong - plain).abs().min() > 1e-4


@pytest.mark.parametrize("kind", denoise.KINDS)
def test_guided_by_log_p_of_the_label_given_the_noisy_cell_it_is_the_denoiser_of_that_label(kind):
    path, std, weights, means = P.cosine(), TOY.std, TOY.weights, TOY.means

    def log_prob(x, t):  # of component 0
        noised = [TOY.noised(path.alpha(s).item(), path.sigma(s).item()) for s in t]
        return torch.stack([n._log_joint(y[None])[0].log_softmax(-1)[0] for n, y in zip(noised, x)])

    everything = denoise.mixture(path, means, std=std, weights=weights)
    one = denoise.mixture(path, means[:1], std=std[:1])

    def net(x, t, cond=None):  # the same denoiser, whatever it predicts
        x0, eps = everything(x, t)
        sigma = path.sigma(t)[:, None]
        return {"x0": x0, "eps": eps, "score": -eps / sigma, "velocity": path.velocity(x0, eps, t)}[kind]

    x, t = torch.randn(20, 2).double(), torch.rand(20).double() * 0.9 + 0.05
    got = denoise.guided_by(denoise.Denoiser(net, path, kind), log_prob)
    torch.testing.assert_close(got.score(x, t), one.score(x, t), rtol=0, atol=1e-10)
    twice = denoise.guided_by(everything, log_prob, scale=2.0).score(x, t)
    torch.testing.assert_close(twice, 2 * one.score(x, t) - everything.score(x, t))
    with torch.no_grad():  # as in a sampler
        torch.testing.assert_close(got(x, t)[0], one(x, t)[0])


def test_a_denoiser_trains_its_network_and_a_guided_one_nothing():
    denoiser, b = conditional()
    assert sum(p.numel() for p in denoiser.parameters()) == sum(p.numel() for p in denoiser.net.parameters()) > 0
    assert not list(denoise.guided(denoiser, b, scale=2.0).parameters())


@pytest.mark.parametrize(
    "mistake, words",
    [
        (lambda: denoise.Denoiser(nets.MLP(2, 2), P.cosine(), "noise"), "one of eps, x0, score, velocity"),
        (lambda: denoise.Denoiser(nets.MLP(2, 3), P.cosine())(torch.ones(4, 2), torch.tensor(0.5)), "shape of x"),
        (lambda: denoise.Denoiser(nets.MLP(2, 2), P.cosine())(torch.ones(4, 2), torch.ones(4, 1)), "one time for all"),
        (lambda: denoise.loss(of_toy(P.cosine()), {"cells": torch.ones(4, 2)}), r"denoises b\['x'\]"),
        (
            lambda: denoise.loss(denoise.Denoiser(nets.MLP(2, 2), P.cosine(), "score"), {"x": torch.ones(4, 2)}),
            "has no mean",
        ),
        (lambda: of_toy(P.edm()).score(torch.ones(4, 2), torch.zeros(4)), "say nothing of eps"),
        (
            lambda: denoise.Denoiser(nets.MLP(2, 2), P.cosine()).score(torch.ones(4, 2), torch.tensor(0.0)),
            "clean data have no score",
        ),
        (lambda: denoise.guided(*conditional(null=False), scale=2.0), "null=True"),
        (lambda: denoise.guided(*conditional(), scale=float("nan")), "0 drops"),
        (
            lambda: denoise.guided_by(of_toy(P.cosine()), lambda x, t: x)(torch.ones(4, 2), torch.tensor(0.5)),
            "one number",
        ),
        (lambda: denoise.guided(conditional()[0], {"dose": torch.rand(4)}, scale=2.0), "conditioned on 'tissue'"),
        (lambda: denoise.gaussian(P.cosine(), torch.ones(2), torch.ones(3, 3)), "symmetric cov"),
        (lambda: denoise.gaussian(P.cosine(), torch.ones(2), torch.tensor([[1.0, 2], [0, 1]])), "symmetric cov"),
        (lambda: denoise.mixture(P.cosine(), torch.ones(3)), r"means are \(K, D\)"),
        (lambda: denoise.mixture(P.cosine(), torch.ones(3, 2), weights=torch.ones(2)), r"weights \(K,\)"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(mistake, words):
    with pytest.raises(ValueError, match=words):
        mistake()


def test_a_path_that_begins_with_noise_may_learn_its_score_unweighted():
    b = {"x": torch.ones(4, 2)}
    assert denoise.loss(denoise.Denoiser(nets.MLP(2, 2), P.ve(), "score"), b)["loss"].isfinite()
