"""Kalman's filter, forecasts and the regulator against statsmodels, scipy, the joint Gaussian and roll-outs."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter
from torch.distributions import MultivariateNormal

from lab import world
from lab.errors import Refused


def some(system, n=3, T=12):
    actions = torch.randn(n, T, 1, dtype=torch.float64)
    return *system.simulate(actions), actions


def by_statsmodels(system, obs, actions):
    A, B, H, Q, R, mean, P = (part.numpy() for part in system)
    peer = KalmanFilter(k_endog=len(H), k_states=len(A))
    peer.bind(obs.numpy())
    peer["transition"], peer["design"], peer["selection"] = A, H, np.eye(len(A))
    peer["state_cov"], peer["obs_cov"] = Q, R
    push = actions.numpy() @ B.T
    # its intercept at t leads to the state at t + 1; the first push is in the start
    peer["state_intercept"] = np.concatenate([push[1:], push[:1]]).T
    peer.initialize_known(A @ mean + push[0], A @ P @ A.T + Q)
    return peer.filter()


def test_the_filter_is_statsmodels(system):
    _, obs, actions = some(system)
    mine = world.kalman(system, obs, actions)
    for i in range(len(obs)):
        peer = by_statsmodels(system, obs[i], actions[i])
        np.testing.assert_allclose(mine.log_prob[i].sum(), peer.llf, rtol=1e-10)
        np.testing.assert_allclose(mine.log_prob[i], peer.llf_obs, rtol=1e-9)
        np.testing.assert_allclose(mine.mean[i].T, peer.filtered_state, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(mine.covariance.permute(1, 2, 0), peer.filtered_state_cov, rtol=1e-8, atol=1e-12)


def test_the_likelihood_is_that_of_the_joint_gaussian_whose_moments_simulation_has(system):
    _, obs, actions = some(system, 1, 4)
    many = system.simulate(actions.expand(400_000, -1, -1))[1][..., 0]
    joint = MultivariateNormal(many.mean(0), many.T.cov())
    exact = world.kalman(system, obs, actions).log_prob.sum(1)
    assert abs(joint.log_prob(obs[..., 0]) - exact) < 0.03


def test_a_start_that_is_known_is_simulated_from_there(system):
    still = system._replace(P=0 * system.P, Q=0 * system.Q)
    z, _ = still.simulate(torch.zeros(3, 2, 1).double())
    torch.testing.assert_close(z[:, 0], (system.A @ system.mean).expand(3, 2))
    _, obs, actions = some(still)
    assert world.kalman(still, obs, actions).log_prob.isfinite().all()


def test_the_forgetful_filter_has_the_covariance_of_scipys_riccati(system):
    P = world.steady_state(system)
    A, H, Q, R = (part.numpy() for part in (system.A, system.H, system.Q, system.R))
    np.testing.assert_allclose(P, solve_discrete_are(A.T, H.T, Q, R), atol=1e-10)
    _, obs, actions = some(system, 1, 200)
    last = world.kalman(system, obs, actions).covariance[-1]
    torch.testing.assert_close(system.A @ last @ system.A.T + system.Q, P, atol=1e-10, rtol=0)


def test_the_open_loop_variance_is_the_explicit_sum_and_its_bands_hold_what_they_say(system):
    z, obs, actions = some(system, 20_000, 22)
    belief = world.kalman(system, obs[:, :10], actions[:, :10])
    mean, covariance = world.open_loop(system, belief.mean[:, -1], belief.covariance[-1], actions[:, 10:])
    A, H, Q, R, P = system.A, system.H, system.Q, system.R, belief.covariance[-1]
    power = torch.linalg.matrix_power
    for k in (1, 5, 12):
        Ak = power(A, k)
        total = Ak @ P @ Ak.T + sum(power(A, j) @ Q @ power(A, j).T for j in range(k))
        torch.testing.assert_close(covariance[k - 1], H @ total @ H.T + R, atol=1e-12, rtol=1e-12)
    inside = (obs[:, 10:] - mean).abs() < 1.6449 * covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert (inside.double().mean((0, 2)) - 0.9).abs().max() < 0.01


def test_the_regulator_is_scipys_and_costs_what_it_says(system):
    A, B, Q, R = system.A, system.B, torch.eye(2).double(), 0.3 * torch.eye(1).double()
    K, P = world.lqr(A, B, Q, R)
    np.testing.assert_allclose(P, solve_discrete_are(*(part.numpy() for part in (A, B, Q, R))), rtol=1e-9)
    z = start = torch.tensor([1.0, -2.0]).double()
    total = 0.0
    for _ in range(2000):
        action = -K @ z
        total, z = total + z @ Q @ z + action @ R @ action, A @ z + B @ action
    torch.testing.assert_close(total, start @ P @ start, rtol=1e-10, atol=0)


def test_a_controller_that_believes_a_wrong_dynamics_pays_by_the_square_of_its_error(system):
    A, B, Q, R = system.A, system.B, torch.eye(2).double(), torch.eye(1).double()
    P = world.lqr(A, B, Q, R)[1]

    def excess(error):
        K = world.lqr(A + error * torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), B, Q, R)[0]
        closed, cost = A - B @ K, Q + K.T @ R @ K
        pays = sum(
            torch.linalg.matrix_power(closed, t).T @ cost @ torch.linalg.matrix_power(closed, t) for t in range(600)
        )
        return (pays - P).trace()

    ratio = excess(0.02) / excess(0.01)
    assert 3.5 < ratio < 4.5


def test_what_no_action_steadies_and_what_does_not_fit_are_refused_in_a_sentence(system):
    eye = torch.eye(2).double()
    with pytest.raises(Refused, match="settle"):
        world.lqr(1.1 * eye, 0 * system.B, eye, eye[:1, :1])
    with pytest.raises(Refused, match="1 observed features and 1 actions"):
        world.kalman(system, torch.zeros(2, 5, 3).double(), torch.zeros(2, 5, 1).double())
