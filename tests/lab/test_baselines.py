"""The rows that models have to beat, against scipy and against laws that are known."""

import numpy as np
import pytest
import torch
from scipy import stats

from lab import baselines
from lab.errors import Refused

GENES = 12


def cells(n, seed, theta=2.0, kinds=1):
    """Minibatch of n cells of `kinds` profiles, negative binomial around them, and its true log-likelihood (B,)."""
    random, law = np.random.default_rng(seed), np.random.default_rng(7)
    rho = law.dirichlet(np.ones(GENES), kinds)
    kind, depth = random.integers(kinds, size=n), random.uniform(200, 600, (n, 1))
    x = random.negative_binomial(theta, theta / (theta + depth * rho[kind]))
    x[:, 0] += x.sum(1) == 0
    mean = x.sum(1, keepdims=True) * rho[kind]
    truth = stats.nbinom.logpmf(x, theta, theta / (theta + mean)).sum(1)
    x = torch.tensor(x, dtype=torch.float32)
    return {"x": x, "log_library": x.sum(1, keepdim=True).log(), "kind": torch.tensor(kind)}, truth


def by_scipy(known, new, thetas):
    """The baseline of one profile, written with scipy alone."""
    x, y = known["x"].numpy().astype(float), new["x"].numpy().astype(float)
    rho = (x.sum(0) + 0.5) / (x.sum(0) + 0.5).sum()
    score = [stats.nbinom.logpmf(x, t, t / (t + x.sum(1, keepdims=True) * rho)).sum(0) for t in thetas.double().numpy()]
    theta = thetas.double().numpy()[np.argmax(score, 0)]
    return stats.nbinom.logpmf(y, theta, theta / (theta + y.sum(1, keepdims=True) * rho)).sum(1)


@pytest.mark.parametrize("seed", range(3))
def test_one_profile_is_what_scipy_makes_of_it(seed):
    known, new = cells(150, seed)[0], cells(60, seed + 10)[0]
    ours = baselines.profile(known, new).numpy()
    np.testing.assert_allclose(ours, by_scipy(known, new, baselines.THETAS), rtol=1e-5)


def test_one_label_for_all_is_no_label():
    known, new = cells(80, 0)[0], cells(40, 1)[0]
    torch.testing.assert_close(baselines.profile(known, new, by="kind"), baselines.profile(known, new), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_with_many_cells_labelled_profiles_come_within_a_nat_of_the_law_that_drew_them_and_one_profile_does_not(seed):
    known, (new, truth) = cells(3000, seed, kinds=3)[0], cells(500, seed + 10, kinds=3)
    short = truth.mean() - baselines.profile(known, new, by="kind").mean().item()
    assert -0.1 < short < 1 and truth.mean() - baselines.profile(known, new).mean().item() > 5


def test_codes_need_not_be_consecutive_and_one_that_nobody_knows_is_refused():
    known, new = cells(200, 0, kinds=3)[0], cells(50, 1, kinds=3)[0]
    far = lambda b: b | {"kind": 4 * b["kind"] + 1}
    torch.testing.assert_close(
        baselines.profile(far(known), far(new), by="kind"), baselines.profile(known, new, by="kind")
    )
    with pytest.raises(Refused, match="code 2 among new cells"):
        baselines.profile({name: value[known["kind"] < 2] for name, value in known.items()}, new, by="kind")


def test_cells_drawn_from_the_profiles_have_their_means_and_variances_and_the_labels_of_known_cells():
    known = cells(2000, 0, theta=2.0, kinds=3)[0]
    drawn = baselines.profile_cells(known, 6000, by="kind", seed=1)
    assert torch.equal(drawn["x"], drawn["x"].round())
    for kind in range(3):
        of, new = known["kind"] == kind, drawn["kind"] == kind
        assert abs(of.double().mean() - new.double().mean()) < 0.04
        share = known["x"][of].sum(0) / known["x"][of].sum()
        mean = drawn["log_library"][new].exp() * share  # (B, G)
        z = (drawn["x"][new] - mean) / (mean + mean**2 / 2).sqrt()
        assert (z.mean(0).abs() < 4 / len(z) ** 0.5).all()
        assert ((z.var(0) - 1).abs() < 0.25).all()  # theta is that of a grid


def test_the_same_seed_draws_the_same_cells_and_none_is_too_few():
    known = cells(100, 0)[0]
    one, same, other = (baselines.profile_cells(known, 9, seed=seed)["x"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    with pytest.raises(Refused, match="one cell or more"):
        baselines.profile_cells(known, 0)
