"""The regulation simulator: its fixed points, noise, wiring and counts are what they are said to be, a cell can be
treated twice, and the way to the target is neither barred nor a straight line.
"""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import integrate, linalg, optimize

from lab import data
from lab.errors import Refused

SYSTEM = data.regulation_system()
ALPHA = float(SYSTEM.rest[0] + SYSTEM.rest[1])  # at the attractors u + v = alpha
K, A = SYSTEM.n_regulators, SYSTEM.n_actions
POINTS = {"rest": SYSTEM.rest, "target": SYSTEM.target, "saddle": SYSTEM.saddle}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wild(n, seed=0):
    """States (n, K) far from any attractor, float64."""
    return torch.tensor(np.random.default_rng(seed).uniform(0.05, 4.0, (n, K)))


def jacobian(point):
    return torch.autograd.functional.jacobian(lambda x: SYSTEM.step(x[None])[0], point).numpy()


def dosed(drug, dose=1.0):
    return torch.tensor([dose if name == drug else 0.0 for name in SYSTEM.drugs])


def push_then_wait(action, steps, of=40):
    return torch.cat([action.expand(steps, A), torch.zeros(of - steps, A)])


@pytest.fixture(scope="module")
def cells():
    return data.regulation()


def test_the_set_has_its_schema_its_order_and_counts_that_are_counts(cells):
    assert cells.shape == (2050, 60) and (data.check_counts(cells) == cells.obs["n_counts"]).all()
    assert cells.layers["counts"].dtype == np.int32 and cells.X.dtype == np.float32
    np.testing.assert_array_equal(cells.obs["trajectory"], np.repeat(np.arange(50), 41))
    np.testing.assert_array_equal(cells.obs["time"], np.tile(np.arange(41), 50))
    action = cells.obsm["action"]
    np.testing.assert_array_equal(cells.obs["dose"], action.max(1))
    named = ["+".join(np.array(SYSTEM.drugs)[row > 0]) or "control" for row in action]
    assert list(cells.obs["perturbation"]) == named and len(set(named)) == 1 + 4 + 6
    assert list(cells.var_names[:K]) == list(SYSTEM.regulators) and cells.obsm["state"].shape == (2050, K)
    assert data.regulation("small", n_steps=3).shape == (2000, 200)


def test_an_action_stands_in_the_row_that_it_led_to():
    still = data.regulation(noise=0)
    states, actions = (torch.tensor(still.obsm[name]).reshape(50, 41, -1) for name in ("state", "action"))
    torch.testing.assert_close(SYSTEM.step(states[:, :-1], actions[:, 1:]), states[:, 1:], rtol=1e-6, atol=1e-6)
    assert (actions[:, 0] == 0).all() and (
        SYSTEM.step(states[:, :-1], actions[:, :-1]) - states[:, 1:]
    ).abs().max() > 0.1


def test_treatments_change_every_ten_steps_and_use_no_one_or_two_drugs():
    action = data.regulation(n_genes=20, n_trajectories=1000, n_steps=50).obsm["action"].reshape(1000, 51, A)[:, 1:]
    change = (action[:, 1:] != action[:, :-1]).any(-1)
    assert change.mean() == pytest.approx(0.1 * (1 - 0.3**2), abs=0.004)  # from no drug to no drug is none to see
    number = np.bincount((action[:, 0] > 0).sum(1), minlength=A + 1) / 1000
    np.testing.assert_allclose(number, [0.3, 0.5, 0.2, 0, 0], atol=0.05)
    assert np.sort(action[action > 0])[:: (action > 0).sum() // 4] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.04)


def test_seeds_draw_cells_and_doses_and_never_the_genes(cells):
    again, other = data.regulation(), data.regulation(seed=1)
    for part in (again, other):
        np.testing.assert_array_equal(cells.varm["programme"], part.varm["programme"])
        np.testing.assert_array_equal(cells.var, part.var)
    same = lambda a, b: (
        (a.layers["counts"] != b.layers["counts"]).nnz == 0 and (a.obsm["state"] == b.obsm["state"]).all()
    )
    assert same(cells, again) and not same(cells, other) and (cells.obsm["action"] != other.obsm["action"]).any()
    np.testing.assert_array_equal(SYSTEM.programme, cells.varm["programme"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data.regulation(n_trajectories=2)
    assert (torch.get_rng_state() == before).all()  # the global generator is nobody's business


def test_the_set_survives_a_file(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert back.uns["regulation"]["wiring"].equals(SYSTEM.wiring) and list(back.uns["regulation"]["drugs"]) == [
        "u",
        "v",
        "v3",
        "h",
    ]
    np.testing.assert_array_equal(back.uns["regulation"]["target"], SYSTEM.target)


@pytest.mark.parametrize("name, unstable", [("rest", 0), ("target", 0), ("saddle", 1)])
def test_fixed_points_are_what_a_root_finder_finds_and_as_stable_as_said(name, unstable):
    residual = lambda x: (SYSTEM.step(torch.from_numpy(x)[None])[0] - torch.from_numpy(x)).numpy()
    found = optimize.root(residual, POINTS[name].numpy() * 1.05, tol=1e-13)
    assert found.success
    np.testing.assert_allclose(POINTS[name], found.x, rtol=1e-10)
    assert (np.abs(linalg.eigvals(jacobian(POINTS[name]))) > 1).sum() == unstable


def test_the_toggle_has_two_basins_parted_by_the_diagonal():
    start = wild(400)
    end = SYSTEM.rollout(start, torch.zeros(300, A))[:, -1]
    rests, arrives = start[:, 0] > start[:, 1], start[:, 0] < start[:, 1]
    assert rests.sum() > 150 and arrives.sum() > 150
    for basin, name in ((rests, "rest"), (arrives, "target")):
        torch.testing.assert_close(end[basin], POINTS[name].expand(int(basin.sum()), -1), rtol=1e-6, atol=1e-6)
    assert SYSTEM.reached(end[arrives]).all() and not SYSTEM.reached(end[rests]).any()


def test_short_steps_follow_gardners_equations_with_an_error_of_first_order():
    toggle = lambda _, x: [ALPHA / (1 + x[1] ** 2) - x[0], ALPHA / (1 + x[0] ** 2) - x[1]]
    start, errors = wild(1, seed=3), []
    exact = integrate.solve_ivp(toggle, (0, 2), start[0, :2].numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
    for steps in (100, 200, 400):
        end = replace(SYSTEM, dt=2 / steps).rollout(start, torch.zeros(steps, A))[0, -1, :2].numpy()
        errors.append(np.abs(end - exact).max())
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.02)


@pytest.mark.parametrize("name", ["rest", "target"])
def test_small_noise_spreads_as_the_lyapunov_equation_says(name):
    """x' - x* = J (x - x*) + noise x* xi to first order, so the stationary covariance P solves P = J P J' + Q."""
    point, quiet = POINTS[name], replace(SYSTEM, noise=0.002)
    end = quiet.rollout(point.expand(10_000, -1), torch.zeros(60, A), seed=0)[:, -1].numpy()
    expected = linalg.solve_discrete_lyapunov(jacobian(point), np.diag((0.002 * point.numpy()) ** 2))
    scale = np.sqrt(np.diag(expected))
    difference = (np.cov(end.T) - expected) / np.outer(scale, scale)
    assert np.abs(difference).max() < 4.5 * np.sqrt(2 / 10_000)  # a covariance's standard error, at most
    plain = np.diag((0.002 * point.numpy()) ** 2) / np.outer(scale, scale)
    assert np.abs(np.cov(end.T) / np.outer(scale, scale) - plain).max() > 0.3  # one step's noise alone is not enough


def test_a_step_without_noise_is_the_mean_of_the_step_with_it():
    loud, state = replace(SYSTEM, noise=0.3), wild(1, seed=1)
    drawn = loud.step(state.expand(200_000, -1), dosed("v"), seeded())
    error = drawn.std(0) / 200_000**0.5
    assert ((drawn.mean(0) - loud.step(state, dosed("v"))[0]).abs() < 4 * error).all()


def test_a_dose_of_zero_is_no_action_to_the_bit():
    state = wild(50).float()
    assert torch.equal(SYSTEM.step(state, None, seeded()), SYSTEM.step(state, torch.zeros(50, A), seeded()))
    assert torch.equal(SYSTEM.step(state, torch.zeros(A)), SYSTEM.step(state))


@pytest.mark.parametrize("drug, fold", [("u", 0.65), ("v", 3.0), ("v3", 2.0), ("h", 0.5)])
def test_a_full_dose_multiplies_its_genes_production_by_the_fold_and_half_of_it_does_most(drug, fold):
    state, keep, gene = wild(20), np.exp(-SYSTEM.dt), SYSTEM.regulators.index(drug)
    made = lambda action: (SYSTEM.step(state, action) - keep * state)[:, gene]
    ratio = lambda dose: (made(dosed(drug, dose)) / made(torch.zeros(A))).numpy()
    np.testing.assert_allclose(ratio(1.0), fold)
    np.testing.assert_allclose(ratio(0.5), 1 + 0.75 * (fold - 1))
    assert SYSTEM.doses.set_index("gene").loc[drug, "fold"] == fold


@pytest.mark.parametrize("drug", SYSTEM.drugs)
def test_an_action_moves_its_gene_first_and_then_its_descendants_along_the_wiring(drug):
    start, idle = SYSTEM.start(5, seeded()), torch.zeros(6, A)
    treated, left = (SYSTEM.rollout(start, actions, seed=1) for actions in (dosed(drug).expand(6, A), idle))
    children, moved = SYSTEM.wiring.groupby("parent")["child"].agg(set), {drug}
    for t in range(1, 7):
        differs = (treated[:, t] != left[:, t]).any(0)
        assert {name for name, d in zip(SYSTEM.regulators, differs) if d} == moved
        moved = moved.union(*(children.get(name, set()) for name in moved))


def test_two_treatments_of_one_cell_are_equal_until_they_differ():
    start, one = SYSTEM.start(30, seeded()), torch.rand(30, 20, A, generator=seeded(1))
    other = one.clone()
    other[:, 12] = 1 - other[:, 12]
    a, b, again = (SYSTEM.rollout(start, actions, seed=2) for actions in (one, other, one))
    assert torch.equal(a, again) and torch.equal(a[:, :13], b[:, :13]) and (a[:, 13] != b[:, 13]).any(1).all()
    assert not torch.equal(a, SYSTEM.rollout(start, one, seed=3)) and torch.equal(a[:, 0], start)


def test_a_rollout_is_its_steps_and_one_plan_serves_all_cells():
    start, plan = SYSTEM.start(4, seeded()), torch.rand(5, A, generator=seeded(1))
    states, generator = [start], seeded(7)
    for action in plan:
        states.append(SYSTEM.step(states[-1], action, generator))
    for actions in (plan, plan.expand(4, 5, A)):
        assert torch.equal(SYSTEM.rollout(start, actions, seed=7), torch.stack(states, 1))


def test_doses_can_be_found_by_gradients():
    start = wild(2)
    plan = torch.rand(3, A, generator=seeded(), dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(lambda p: SYSTEM.rollout(start, p, seed=0).log(), plan.requires_grad_())


def test_counts_have_the_means_that_rates_give_and_negative_binomial_variances():
    state, n = SYSTEM.target[None], 40_000
    counts = SYSTEM.observe(state.expand(n, -1), seeded()).numpy()
    mean, theta = SYSTEM.rates(state)[0].numpy(), SYSTEM.theta.numpy()
    assert mean.sum() == pytest.approx(SYSTEM.depth) and (counts == counts.round()).all()
    spread = np.exp(0.3**2)  # E[library^2]; its mean is 1
    variance = mean + mean**2 * (spread * (1 + 1 / theta) - 1)
    assert np.abs((counts.mean(0) - mean) / np.sqrt(variance / n)).max() < 4
    np.testing.assert_allclose(counts.var(0), variance, rtol=0.08)
    assert np.abs(counts.var(0) / mean - 1).max() > 1  # a Poisson's would be 0
    again = SYSTEM.observe(state.expand(n, -1), seeded()).numpy()
    assert (again == counts).all() and (SYSTEM.observe(state.expand(n, -1), seeded(1)).numpy() != counts).any()


def test_a_regulators_own_gene_reads_it_alone_and_programmes_read_one_or_two():
    programme = SYSTEM.programme.numpy()
    assert (programme[:K] == np.diag(np.diag(programme[:K]))).all() and (np.diag(programme[:K]) > 0).all()
    assert set((programme > 0).sum(1)) == {0, 1, 2} and (programme >= 0).all() and (SYSTEM.base > 0).all()


BAD = {
    "a preset": (lambda: data.regulation("huge"), "preset='huge' is not known; it is one of tiny, small"),
    "the system's preset": (lambda: data.regulation_system("huge"), "preset='huge' is not known"),
    "genes": (lambda: data.regulation(n_genes=7), "n_genes=7: it must lie between 20 and 20,000"),
    "trajectories": (lambda: data.regulation(n_trajectories=0), "n_trajectories=0: it must lie between 1 and"),
    "steps": (lambda: data.regulation(n_steps=0), "n_steps=0: it must lie between 1 and"),
    "noise": (lambda: data.regulation_system(noise=-0.1), "noise=-0.1: it must lie between 0 and 1"),
    "noise that is no number": (lambda: data.regulation(noise=float("nan")), "noise=nan: it must lie"),
    "depth": (lambda: data.regulation(depth=0), "depth=0: it must lie between 1 and 10,000,000"),
    "a dose": (lambda: SYSTEM.step(wild(3), dosed("v", 1.2)), r"4 doses in \[0, 1\].*to 1.2; clamp it first"),
    "a negative dose": (lambda: SYSTEM.step(wild(3), dosed("v", -0.1)), "values from -0.1 to 0; clamp it first"),
    "a dose that is none": (lambda: SYSTEM.step(wild(3), dosed("v", float("nan"))), "4 doses in"),
    "drugs": (lambda: SYSTEM.step(wild(3), torch.zeros(3, 5)), r"of drugs on u, v, v3, h; this has shape \(3, 5\)"),
    "cells": (
        lambda: SYSTEM.step(wild(3), torch.zeros(2, A)),
        r"shape \(2, 4\) do not fit states of shape \(3, 8\); give",
    ),
    "plans": (lambda: SYSTEM.rollout(wild(3), torch.zeros(2, 9, A)), "do not fit states"),
    "a state": (lambda: SYSTEM.rates(wild(3)[:, :5]), r"8 amounts from 0 up, of u, v, .* shape \(3, 5\)"),
    "a negative state": (lambda: SYSTEM.step(wild(3) - 2), "values from -1.* give such amounts"),
    "a state that is none": (lambda: SYSTEM.reached(wild(3) * float("nan")), "8 amounts from 0 up"),
    "an endless state": (lambda: SYSTEM.observe(wild(3) * float("inf"), seeded()), "8 amounts from 0 up"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input_is_refused_in_one_sentence(wrong):
    call, says = BAD[wrong]
    with pytest.raises(Refused, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def success(actions, n=400, seed=1):
    """The share of cells that the plan brings to the target and that are held there."""
    return SYSTEM.held(SYSTEM.rollout(SYSTEM.start(n, seeded()), actions, seed=seed)).float().mean().item()


def test_cells_stay_where_they_live():
    at_target = SYSTEM.target.float().expand(400, -1)
    assert SYSTEM.held(SYSTEM.rollout(at_target, torch.zeros(100, A), seed=1)).float().mean() > 0.98
    assert success(torch.zeros(200, A)) == 0


def constant(grid, n=200, seed=1):
    """The share held under each constant action of `grid` (C, A)."""
    state, generator, states = SYSTEM.start(n, seeded()).expand(len(grid), n, K), seeded(seed), []
    for _ in range(40):
        state = SYSTEM.step(state, grid[:, None], generator)
        states.append(state)
    return SYSTEM.held(torch.stack(states[-5:], -2)).float().mean(1)


def test_no_constant_dose_serves_more_than_some_six_cells_in_ten():
    values = [
        (0.0, 0.5, 0.8, 0.9, 1.0),
        (0.0, 0.01, 0.02, 0.025, 0.03, 0.05, 0.1, 0.3, 1.0),
        (0.0, 0.2, 0.4),
        (0.0, 0.1, 0.4),
    ]
    grid = torch.cartesian_prod(*map(torch.tensor, values))
    held = constant(grid)
    assert 0.3 < held.max() < 0.6
    assert held[grid[:, 0] == 0].max() == 0  # v alone: what crosses the saddle also carries on past the target


def test_a_push_of_the_right_length_and_then_nothing_serves_nearly_all():
    push = dosed("u") + dosed("v")
    share = {steps: success(push_then_wait(push, steps)) for steps in (6, 10, 14, 20, 40)}
    assert share[14] > 0.95 and share[6] < 0.1 and share[40] == 0 and share[20] < 0.8
    assert success(push_then_wait(dosed("v"), 18)) > 0.9  # slower, one drug does it too


def planned(n=32, plans=100, rounds=15, blocks=8, seed=0):
    """The plan (40, A), constant over each of `blocks`, that the cross-entropy method finds on the system itself: the
    ceiling for a planner that knows the true dynamics and does not look at the cell again.
    """
    generator, mean, std = seeded(seed), torch.full((blocks, A), 0.5), torch.full((blocks, A), 0.5)
    start, long = SYSTEM.start(n, seeded()).expand(plans, n, K), 40 // blocks
    for turn in range(rounds):
        tried = (mean + std * torch.randn(plans, blocks, A, generator=generator)).clamp(0, 1)
        states = SYSTEM.rollout(start, tried.repeat_interleave(long, 1)[:, None], seed=turn)
        best = tried[SYSTEM.distance(states[..., -5:, :]).mean((1, 2)).argsort()[: plans // 10]]
        mean, std = best.mean(0), best.std(0)
    return mean.repeat_interleave(long, 0)


def test_planning_on_the_system_itself_finds_a_way_for_nine_cells_in_ten():
    plan = planned()
    assert success(plan, n=1000, seed=99) > 0.9
    assert plan[-5:, 1].mean() < 0.05 < plan[:20, 1].mean()  # found without being told: v first, and then no more
