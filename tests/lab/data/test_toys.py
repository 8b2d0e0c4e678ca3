"""Toys: densities that integrate to one, scores that are their gradients, samples that come from them."""

import inspect

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from lab import data
from lab.data import toys
from lab.errors import Refused

TOYS = {
    "gaussian_mixture": toys.gaussian_mixture(),
    "eight_gaussians": toys.eight_gaussians(),
    "moons": toys.moons(),
    "rings": toys.rings(),
    "checkerboard": toys.checkerboard(),
    "noised moons": toys.moons().noised(0.8, 0.6),
    "noised checkerboard": toys.checkerboard().noised(0.8, 0.6),
}


def grid(n, half=5.0):
    """Midpoints of an n x n grid on [-half, half]^2, and the area of a cell."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 * half / n - half
    return torch.stack(torch.meshgrid(u, u, indexing="ij"), -1).reshape(-1, 2), (2 * half / n) ** 2


def density(toy, x):
    return torch.cat([toy.log_prob(part).exp() for part in x.split(20_000)])


@pytest.mark.parametrize("name", TOYS)
def test_the_density_integrates_to_one(name):
    x, area = grid(300)
    assert (density(TOYS[name], x).sum() * area).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", TOYS)
def test_the_score_is_the_gradient_of_the_log_density_also_far_away(name):
    x = torch.tensor(np.random.default_rng(0).uniform(-5, 5, (500, 2)), requires_grad=True)
    (gradient,) = torch.autograd.grad(TOYS[name].log_prob(x).sum(), x)
    torch.testing.assert_close(TOYS[name].score(x), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", TOYS)
def test_score_and_density_are_finite_in_float32(name):
    x = torch.tensor(np.random.default_rng(0).uniform(-4, 4, (500, 2)))
    score, log_prob = TOYS[name].score(x.float()), TOYS[name].log_prob(x.float())
    assert score.dtype == torch.float32 and torch.isfinite(score).all() and torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob.double(), TOYS[name].log_prob(x), rtol=1e-3, atol=2e-2)


def chi_square(x, toy, bins=24, fine=6, half=4.0):
    """p-value of samples binned on a grid against the integral of the density over each bin; rare bins are pooled."""
    points, area = grid(bins * fine, half)
    expected = density(toy, points).reshape(bins, fine, bins, fine).sum((1, 3)).numpy().ravel() * area * len(x)
    edges = np.linspace(-half, half, bins + 1)
    observed = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])[0].ravel()
    keep = expected >= 5
    expected, observed = (
        np.append(expected[keep], len(x) - expected[keep].sum()),
        np.append(observed[keep], len(x) - observed[keep].sum()),
    )
    return stats.chisquare(observed, expected).pvalue


@pytest.mark.parametrize("name", TOYS)
def test_samples_follow_the_density(name):
    toy = TOYS[name]
    assert chi_square(toy.sample(20_000, seed=0).X, toy) > 0.001
    wider = toy.noised(1.0, 0.3)
    assert chi_square(wider.sample(20_000, seed=0).X, toy) < 1e-6  # the test notices a little noise


@pytest.mark.parametrize("alpha, sigma", [(0.7, 0.5), (0.5, 0.1)])
@pytest.mark.parametrize("name", ["eight_gaussians", "moons", "checkerboard"])
def test_noised_is_the_law_of_alpha_x0_plus_sigma_eps(name, alpha, sigma):
    toy = TOYS[name]
    x0 = toy.sample(20_000, seed=0).X
    x = alpha * x0 + sigma * np.random.default_rng(1).standard_normal(x0.shape)
    assert chi_square(x, toy.noised(alpha, sigma), half=2.0 if alpha < 0.6 else 4.0) > 0.001


@pytest.mark.parametrize("name", ["gaussian_mixture", "checkerboard"])
def test_noise_composes(name):
    x = grid(20)[0]
    twice, once = TOYS[name].noised(0.8, 0.3).noised(0.5, 0.2), TOYS[name].noised(0.4, np.hypot(0.5 * 0.3, 0.2))
    torch.testing.assert_close(twice.log_prob(x), once.log_prob(x), rtol=1e-12, atol=1e-12)


def test_the_mixture_equals_torch_distributions():
    toy, x = TOYS["gaussian_mixture"], grid(50)[0]
    reference = MixtureSameFamily(
        Categorical(toy.weights), Independent(Normal(toy.means, toy.std[:, None].expand(-1, 2)), 1)
    )
    torch.testing.assert_close(toy.log_prob(x), reference.log_prob(x), rtol=1e-12, atol=1e-12)


def test_the_beads_of_a_ring_equal_the_bessel_function_of_a_circle():
    ring, radius, std = toys.rings(radii=(1.5,), std=0.1), 1.5, 0.1
    r = np.linspace(0.5, 2.5, 41)
    x = torch.tensor(np.stack([r * np.cos(0.3), r * np.sin(0.3)], -1))
    exact = np.log(special.ive(0, r * radius / std**2)) - (r - radius) ** 2 / (2 * std**2) - np.log(2 * np.pi * std**2)
    np.testing.assert_allclose(ring.log_prob(x).numpy(), exact, rtol=1e-9, atol=1e-9)


def test_the_beads_of_a_moon_equal_quadrature_along_the_half_circle():
    moon, std = toys.moons(std=0.1), 0.1

    def exact(x, y):
        """Both half circles by adaptive quadrature; the lower one is the upper one seen from -(x, y)."""
        total = 0.0
        for sign in (1, -1):
            squared = lambda a, s=sign: (s * x - np.cos(a) + 0.5) ** 2 + (s * y - np.sin(a) + 0.25) ** 2
            total += integrate.quad(lambda a, r2=squared: np.exp(-r2(a) / (2 * std**2)), 0, np.pi, epsabs=1e-13)[0]
        return total / (4 * np.pi**2 * std**2)

    for point in [(0.5, 0.0), (-0.5, 0.75), (0.0, 0.0), (1.3, -1.0), (0.45, -0.2)]:
        assert moon.log_prob(torch.tensor([point], dtype=torch.float64)).exp().item() == pytest.approx(
            exact(*point), rel=2e-3, abs=1e-9
        )


def test_moons_interleave_and_all_toys_are_roughly_centred():
    for name in ("eight_gaussians", "moons", "rings", "checkerboard"):
        assert np.abs(TOYS[name].sample(20_000, seed=0).X.mean(0)).max() < 0.05, name
    upper, lower = (TOYS["moons"].sample(2000).X[TOYS["moons"].sample(2000).obs["component"] == c] for c in "01")
    assert upper[:, 0].max() > lower[:, 0].min() + 1 and upper[:, 1].mean() > lower[:, 1].mean()


def test_the_checkerboard_fills_black_squares_only():
    sharp = toys.checkerboard(std=1e-3).sample(5000).X
    assert ((np.floor(sharp).sum(1) % 2) == 0).mean() > 0.99


def test_a_sample_is_anndata_without_counts_and_reproducible():
    moons = toys.moons().sample(100, seed=5)
    assert moons.shape == (100, 2) and "counts" not in moons.layers and moons.uns["unit"]
    assert moons.obs["component"].nunique() == 2
    np.testing.assert_array_equal(moons.X, toys.moons().sample(100, seed=5).X)
    assert (moons.X != toys.moons().sample(100, seed=6).X).all()
    assert next(iter(data.loader(moons, layer=None)))["x"].shape == (100, 2)
    with pytest.raises(Refused, match="no layer 'counts'"):
        data.loader(moons)


def test_the_card_counts_the_toys_and_their_dimensions():
    ours = lambda f: inspect.isfunction(f) and f.__module__ == toys.__name__ and not f.__name__.startswith("_")
    makers = [maker for _, maker in inspect.getmembers(toys, ours)]
    number = ("one", "two", "three", "four", "five", "six", "seven", "eight")[len(makers) - 2]
    assert toys.CARD.call == f"toys.moons() and {number} more" and data.toys.moons in makers
    assert {maker().sample(3).n_vars for maker in makers} == {toys.CARD.genes}
