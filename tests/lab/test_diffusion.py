"""The chain of diffusion: equal to diffusers' schedulers, its posterior and bound in closed form, learned schedules."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lab import denoise, diffusion, path, sample

X = torch.linspace(-2, 2, 6, dtype=torch.float64).view(2, 3)
# diffusers 0.42.1, torch 2.13.0, beta_start 1e-4, beta_end 0.02, no clipping, torch.manual_seed(0): elements 0 and 4 of
# X after each of three steps. DDPMScheduler has variance_type "fixed_small" and starts at its timestep 999 or 499,
# DDIMScheduler has 50 steps, timestep_spacing "trailing", and starts at 999.
DDPM = {
    999: [(-1.7933732923, 1.0454900283), (-1.7447560017, 0.9592634916), (-1.8735666713, 0.8770516196)],
    499: [(-1.8510907659, 1.0905173694), (-1.8150752711, 1.0296901339), (-1.9047968524, 0.9718329658)],
}
DDIM = {
    0.0: [(-2.3443335842, 1.3197894556), (-2.7807273174, 1.4580817348), (-3.3455535910, 1.6193161036)],
    0.5: [(-1.8830838293, 0.9806152528), (-2.0545429393, 0.8686928801), (-2.6224184517, 0.7518343661)],
    1.0: [(-1.3785576946, 0.5774146041), (-1.2544658555, 0.1939845320), (-1.8220052693, -0.1680403048)],
}


def steps(times, eta):
    """Three steps from X by what the schedulers were given: eps(x) = 0.6 sin x + 0.1."""
    chain = path.ddpm(diffusion.linear_betas())
    torch.manual_seed(0)
    denoiser = lambda x, t: chain.split(x, t, eps=0.6 * x.sin() + 0.1)
    return [tuple(x.flatten()[[0, 4]].tolist()) for x in sample.ddim(denoiser, X, times, chain, eta=eta)]


@pytest.mark.parametrize("start", DDPM)
def test_eta_one_is_the_ddpm_scheduler_of_diffusers(start):
    found = steps((start + 1 - torch.arange(4).double()) / 1000, 1.0)
    assert torch.tensor(found).sub(torch.tensor(DDPM[start])).abs().max() < 1e-6


@pytest.mark.parametrize("eta", DDIM)
def test_ddim_is_the_ddim_scheduler_of_diffusers(eta):
    found = steps((1000 - 20 * torch.arange(4).double()) / 1000, eta)
    assert torch.tensor(found).sub(torch.tensor(DDIM[eta])).abs().max() < 1e-6


@pytest.mark.parametrize("i", [2, 40, 999, 1000])
def test_the_posterior_is_ddpms(i):
    betas, x0 = diffusion.linear_betas(), X.flip(0)
    bar = torch.cumprod(1 - betas, 0)
    a, before, beta = bar[i - 1], bar[i - 2], betas[i - 1]
    mean = before.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - a) * X
    t, s = torch.tensor([i, i - 1]).double() / 1000
    law = diffusion.posterior(path.ddpm(betas), x0, X, t, s)
    torch.testing.assert_close(law.mean, mean)
    torch.testing.assert_close(law.variance, ((1 - before) / (1 - a) * beta).expand_as(X), rtol=1e-6, atol=0)


PATHS = {"vp": path.vp(), "cosine": path.cosine(), "linear": path.linear(), "ve": path.ve()}


@pytest.mark.parametrize("name", PATHS)
def test_a_step_of_the_bound_is_the_divergence_of_two_posteriors(name):
    p, (t, s) = PATHS[name], torch.tensor([0.5, 0.47]).double()
    x0, other = X.flip(0), X.flip(1)
    x = p.interpolate(x0, torch.ones_like(X), t)
    laws = (diffusion.posterior(p, end, x, t, s) for end in (x0, other))
    eps, guess = (p.split(x, t, x0=end)[1] for end in (x0, other))
    step = torch.expm1(p.log_snr(s) - p.log_snr(t)) / 2 * (eps - guess).square().sum(1)
    torch.testing.assert_close(step, kl_divergence(*laws).sum(1))


def test_a_posterior_per_cell_is_that_of_its_own_times():
    p, t, s = path.vp(), torch.tensor([0.5, 0.9]).double(), torch.tensor([0.4, 0.1]).double()
    law = diffusion.posterior(p, X.flip(0), X, t, s)
    for i in range(2):
        one = diffusion.posterior(p, X.flip(0)[i : i + 1], X[i : i + 1], t[i], s[i])
        torch.testing.assert_close(law.mean[i : i + 1], one.mean)
        torch.testing.assert_close(law.stddev[i : i + 1], one.stddev)


def even(p, n, first=1e-3):
    """n times between which log_snr falls by equal parts, found by bisection."""
    low, high = torch.full((n,), first).double(), torch.ones(n).double()
    wanted = torch.linspace(*(float(p.log_snr(torch.tensor(t).double())) for t in (first, 1.0)), n).double()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (torch.where(p.log_snr(middle) > wanted, *pair) for pair in ((middle, low), (high, middle)))
    return middle


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_the_bound_of_the_exact_denoiser_is_the_closed_form_and_closes_on_the_truth_as_steps_grow(variance):
    p, d = path.vp(), 3
    exact = denoise.gaussian(p, torch.zeros(d).double(), variance * torch.eye(d).double())
    torch.manual_seed(0)
    x0 = variance**0.5 * torch.randn(4000, d).double()
    truth = Normal(0, variance**0.5).log_prob(x0).sum(1).mean()
    gaps = []
    for n in (40, 160, 640):
        times = even(p, n)
        a, v = p.alpha(times) ** 2, p.sigma(times) ** 2
        floor = d * a * variance / (a * variance + v)  # E|eps - eps*|^2
        jump = torch.expm1(-p.log_snr(times).diff()) / 2
        prior = d / 2 * (a[-1] * variance + v[-1] - 1 - v[-1].log())
        closed = prior + (jump * floor[1:]).sum() + floor[0] / 2 + d / 2 * (2 * math.pi * v[0] / a[0]).log()
        found = diffusion.bound(exact, x0, times=times)
        assert abs(found.mean() + closed) < 4 * found.std() / math.sqrt(len(x0))
        gaps.append((truth + closed).item())
    assert 3.7 < gaps[0] / gaps[1] < 5 and 3.7 < gaps[1] / gaps[2] < 4.3 and 0 < gaps[2] < 0.3, gaps  # first order


@pytest.mark.parametrize("predicts", denoise.KINDS)
def test_with_the_weight_of_the_likelihood_every_prediction_has_the_same_loss(predicts):
    p, torn = path.vp(), 0.3 + 0.5 * X
    t, eps = torch.tensor([0.2, 0.7]).double(), X.flip(1)
    x = p.interpolate(X, eps, t)
    ends = (p.split(x, t, eps=eps + torn)[0], eps + torn)  # what a network that errs by `torn` in eps says of x
    said = {"eps": ends[1], "x0": ends[0], "score": -ends[1] / p.sigma(t)[:, None], "velocity": p.velocity(*ends, t)}
    denoiser = denoise.Denoiser(lambda x, t, cond: said[predicts], p, predicts)
    loss = denoise.loss(denoiser, {"x": X, "t": t, "eps": eps}, weight=diffusion.likelihood_weight(denoiser))["loss"]
    expected = (-path.rate(p.log_snr, t) / 2 * torn.square().sum(1)).mean()
    torch.testing.assert_close(loss, expected)


def test_many_steps_of_the_bound_are_the_weighted_loss_between_the_same_times():
    p = path.vp()
    d = denoise.Denoiser(lambda x, t, cond: 0.5 * x, p)
    torch.manual_seed(0)
    x0 = torch.randn(4000, 2).double()
    steps = diffusion.bound_terms(d, x0, times=torch.linspace(0.05, 1, 400).double())["steps"].sum(1)
    t = 0.05 + 0.95 * torch.rand(4000).double()
    b = {"x": x0, "t": t}
    losses = [denoise.loss(d, b, weight=diffusion.likelihood_weight(d))["loss"].item() * 0.95 for _ in range(20)]
    assert steps.mean() == pytest.approx(sum(losses) / 20, rel=0.03)


@pytest.mark.parametrize("p", [path.vp(), path.cosine()])
def test_the_chain_of_a_path_is_the_path_at_its_times(p):
    n = 200
    chain, t = path.ddpm(diffusion.betas_of(p, n)), torch.arange(n).double() / n  # the last beta may be held back
    torch.testing.assert_close(chain.alpha(t), p.alpha(t))
    torch.testing.assert_close(chain.sigma(t), p.sigma(t))
    assert (diffusion.betas_of(p, n) <= 0.999).all()


def test_a_schedule_is_a_path_that_begins_straight_and_falls_however_it_is_trained():
    schedule, t = diffusion.Schedule(6.0, -4.0, n_pieces=8), torch.linspace(0, 1, 33).double()
    torch.testing.assert_close(schedule.log_snr(t), 6 - 10 * t)
    torch.manual_seed(0)
    schedule.drops.data.normal_(0, 3)
    fall = schedule.log_snr(t).detach()
    assert (fall.diff() < 0).all()
    torch.testing.assert_close(fall[[0, -1]], torch.tensor([6.0, -4.0]).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(33).double())
    where = t[1:-1] + 0.01  # off the knots
    slope = (schedule.log_snr(where + 1e-5) - schedule.log_snr(where - 1e-5)) / 2e-5
    torch.testing.assert_close(path.rate(schedule.log_snr, where), slope, rtol=1e-4, atol=1e-4)


def test_a_denoiser_shows_its_schedule_to_the_optimizer_and_its_loss_reaches_it():
    schedule = diffusion.Schedule()
    d = denoise.Denoiser(lambda x, t, cond: 0.5 * x, schedule)
    assert any(p is schedule.drops for p in d.parameters())
    torch.manual_seed(0)
    denoise.loss(d, {"x": X.float(), "t": torch.tensor([0.3, 0.6])}, weight=diffusion.likelihood_weight(d))[
        "loss"
    ].backward()
    assert schedule.drops.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: diffusion.Schedule(-1.0, 1.0), "first must be above last"),
        (lambda: diffusion.betas_of(path.linear(), 10), "alpha\\^2"),
        (lambda: diffusion.bound(None, X, times=torch.tensor([0.0, 1.0])), "begin above 0"),
        (lambda: diffusion.bound(None, X, times=torch.tensor([1.0, 0.5])), "increase"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
