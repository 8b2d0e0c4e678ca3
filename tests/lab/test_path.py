"""Path: splitting inverts mixing, ends are finite or refused, and every sampler reaches the closed form."""

import math

import pytest
import torch

from lab import path as P
from lab import sample as S

PATHS = {"linear": P.linear(), "cosine": P.cosine(), "vp": P.vp(), "sub_vp": P.sub_vp(), "ve": P.ve(), "edm": P.edm()}
KINDS = ["x0", "eps", "score", "velocity"]


def predictions(path, x0, eps, t):
    return {
        "x0": lambda: x0,
        "eps": lambda: eps,
        "score": lambda: -eps / P.like(path.sigma(t), eps),
        "velocity": lambda: path.velocity(x0, eps, t),
    }


def gaussian_denoiser(path, mean=2.0, std=0.5):
    """E[x0 | x_t] for x0 ~ N(mean, std^2): the closed form that every sampler must agree with."""

    def denoise(x, t):
        a, s = path.alpha(t), path.sigma(t)
        x0 = mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
        return x0, (x - a * x0) / s

    return denoise


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_split_inverts_every_prediction(name, kind):
    path, g = PATHS[name], torch.Generator().manual_seed(0)
    x0, eps = torch.randn(64, 3, generator=g).double(), torch.randn(64, 3, generator=g).double()
    t = torch.rand(64, generator=g).double() * 0.9 + 0.05
    got = path.split(path.interpolate(x0, eps, t), t, **{kind: predictions(path, x0, eps, t)[kind]()})
    torch.testing.assert_close(got, (x0, eps))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_prediction_is_finite_over_the_whole_interval_or_refused_in_words(name, kind, dtype):
    path, refused = PATHS[name], []
    for value in torch.linspace(0, 1, 41, dtype=dtype):
        x0, eps = torch.ones(2, 1, dtype=dtype), torch.full((2, 1), -0.5, dtype=dtype)
        t = value.expand(2)
        x = path.interpolate(x0, eps, t)
        assert x.isfinite().all()
        try:
            y = torch.zeros_like(x) if kind == "score" else predictions(path, x0, eps, t)[kind]()
            assert all(part.isfinite().all() for part in path.split(x, t, **{kind: y}))
        except ValueError as why:
            assert len(str(why)) > 30
            refused.append(value.item())
    allowed = {
        ("linear", "eps"): [1],
        ("linear", "score"): [1],
        ("linear", "x0"): [0],
        ("cosine", "eps"): [1],
        ("cosine", "score"): [1],
        ("cosine", "x0"): [0],
        ("vp", "x0"): [0],
        ("vp", "velocity"): [0],
        ("sub_vp", "x0"): [0],
        ("edm", "x0"): [0],
    }
    assert refused == allowed.get((name, kind), [])


def test_a_discrete_chain_refuses_to_have_a_velocity():
    path = P.ddpm(torch.linspace(1e-4, 0.02, 100))
    x, t = torch.randn(4, 1), torch.full((4,), 0.5)
    with pytest.raises(ValueError, match="discrete"):
        path.velocity(x, x, t)
    with pytest.raises(ValueError, match="discrete"):
        path.split(x, t, velocity=x)


def test_an_unknown_prediction_is_named_in_the_error():
    with pytest.raises(ValueError, match="noise"):
        P.linear().split(torch.ones(1, 1), torch.tensor(0.5), noise=torch.ones(1, 1))


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
def test_velocity_is_the_finite_difference_of_the_path(name):
    path, h = PATHS[name], 1e-5
    x0, eps, t = torch.tensor([[1.3]]).double(), torch.tensor([[-0.4]]).double(), torch.tensor([0.4]).double()
    difference = (path.interpolate(x0, eps, t + h) - path.interpolate(x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x0, eps, t), difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve"])
def test_the_sde_of_a_path_has_its_variance_and_the_noise_that_the_paper_gives(name):
    """dV/dt = 2 f V + g^2 with the paper's f and g^2 of t, by Simpson's rule, from t = 0 to 1."""
    t = torch.linspace(0, 1, 2001).double()
    beta, B = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
    g2 = {"vp": beta, "sub_vp": beta * (1 - (-2 * B).exp()), "ve": 2 * math.log(1000) * PATHS["ve"].sigma(t) ** 2}[name]
    pushed = (B - B[-1]).exp() * g2 if name != "ve" else g2
    var = (pushed[0] + 4 * pushed[1::2].sum() + 2 * pushed[2:-1:2].sum() + pushed[-1]) / 6000
    sigma = PATHS[name].sigma(t)
    first = (PATHS[name].alpha(t)[-1] * sigma[0]) ** 2
    torch.testing.assert_close(var, sigma[-1] ** 2 - first, rtol=1e-6, atol=0)


def test_sub_vp_has_the_signal_of_vp_and_less_noise():
    t = torch.linspace(0.01, 0.99, 50).double()
    assert P.sub_vp().alpha(t).equal(P.vp().alpha(t)) and (P.sub_vp().sigma(t) < P.vp().sigma(t)).all()


def test_vp_is_the_limit_of_the_ddpm_chain():
    n, beta_min, beta_max = 20_000, 0.1, 20.0
    betas = torch.linspace(beta_min / n, beta_max / n, n, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(P.ddpm(betas).alpha(t), P.vp(beta_min, beta_max).alpha(t), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", ["linear", "edm"])
def test_ddim_is_euler_where_the_path_is_a_straight_line(name):
    path = PATHS[name]
    denoise = gaussian_denoiser(path)

    def velocity(x, t):
        return path.velocity(*denoise(x, t), t)

    x, times = torch.randn(32, 1).double(), torch.linspace(1, 0.01, 20).double()
    torch.testing.assert_close(S.last(S.ddim(denoise, x, times, path)), S.last(S.euler(velocity, x, times)))


def test_eta_one_is_the_ddpm_posterior():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    path, alpha_bar, i = P.ddpm(betas), torch.cumprod(1 - betas, 0), 400
    x0, eps = torch.full((200_000, 1), 0.7).double(), torch.tensor(-1.3).double()
    times = torch.tensor([(i + 1) / 1000, i / 1000], dtype=torch.float64)
    x = path.alpha(times[0]) * x0 + path.sigma(times[0]) * eps
    torch.manual_seed(0)
    got = S.last(S.ddim(lambda x, t: (x0, eps), x, times, path, eta=1.0))
    mean = (
        alpha_bar[i - 1].sqrt() * betas[i] / (1 - alpha_bar[i]) * 0.7
        + (1 - betas[i]).sqrt() * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * x[0, 0]
    )
    var = (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * betas[i]
    assert abs(got.mean() - mean) < 4 * (var / len(x)).sqrt()
    assert abs(got.var() / var - 1) < 4 * math.sqrt(2 / len(x))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_every_path_samples_the_same_gaussian(name, eta):
    path = PATHS[name]
    torch.manual_seed(0)
    times = torch.linspace(1, 0, 401).double() ** (7 if name == "edm" else 1)
    a, s = path.alpha(times[0]), path.sigma(times[0])
    x = a * 2.0 + (a**2 * 0.25 + s**2).sqrt() * torch.randn(20_000, 1).double()  # the exact marginal at t = 1
    x = S.last(S.ddim(gaussian_denoiser(path), x, times, path, eta=eta))
    assert abs(x.mean() - 2) < 0.03 and abs(x.std() - 0.5) < 0.02


@pytest.mark.parametrize("sampler, order", [(S.euler, 1), (S.heun, 2)])
def test_the_solvers_have_the_order_they_claim(sampler, order):
    def error(n):
        x = S.last(sampler(lambda x, t: x * t.cos(), torch.ones(1, 1).double(), torch.linspace(0, 1, n + 1).double()))
        return abs(x.item() - math.exp(math.sin(1.0)))

    slope = math.log2(error(100) / error(200))
    assert abs(slope - order) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_langevin_has_the_stationary_variance_of_its_step_not_of_the_target(seed):
    v, h = 1.5, 0.4
    torch.manual_seed(seed)
    x = S.last(S.langevin(lambda x, t: -x / v, torch.randn(40_000, 1), torch.zeros(1), h, n_steps=60))
    exact = v / (1 - h / (2 * v))
    assert abs(x.var() / exact - 1) < 4 * math.sqrt(2 / len(x)) and abs(x.var() - v) > 0.1


def test_a_sampler_without_steps_is_refused():
    with pytest.raises(ValueError, match="two times"):
        S.last(S.euler(lambda x, t: x, torch.ones(1, 1), torch.ones(1)))


@pytest.mark.parametrize("name", PATHS)
def test_when_inverts_the_log_snr(name):
    path, levels = PATHS[name], torch.linspace(3, -3, 13, dtype=torch.float64)
    times = P.when(path, levels)
    torch.testing.assert_close(path.log_snr(times), levels, rtol=0, atol=1e-9)
    assert (
        (times.diff() > 0).all()
        and P.when(path, 1.5).shape == ()
        and P.when(path, levels.float()).dtype == torch.float32
    )
