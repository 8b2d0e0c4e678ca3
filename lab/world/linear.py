"""The world in which everything is known: linear dynamics, Gaussian noise, quadratic cost."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lab.errors import Refused


class System(NamedTuple):
    """z_t = A z_{t-1} + B action_t + N(0, Q), obs_t = H z_t + N(0, R), from z_0 ~ N(mean, P)."""

    A: Tensor  # (Z, Z)
    B: Tensor  # (Z, n_action)
    H: Tensor  # (N, Z)
    Q: Tensor  # (Z, Z)
    R: Tensor  # (N, N)
    mean: Tensor  # (Z,)
    P: Tensor  # (Z, Z)

    def simulate(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, Z) and observations (B, T, N) after each of actions (B, T, A)."""
        z, states = self.mean + _noise(self.P, len(actions)), []
        for action in actions.unbind(1):
            z = z @ self.A.T + action @ self.B.T + _noise(self.Q, len(z))
            states.append(z)
        z = torch.stack(states, 1)
        return z, z @ self.H.T + _noise(self.R, z.shape[:2].numel()).view(*z.shape[:2], -1)


class Belief(NamedTuple):
    """What a Kalman filter knows: log p(obs_t | obs before) (B, T), and of z_t given obs up to t the mean (B, T, Z) and
    the covariance (T, Z, Z), the same for all sequences."""

    log_prob: Tensor
    mean: Tensor
    covariance: Tensor


def kalman(system: System, obs: Tensor, actions: Tensor) -> Belief:
    """Exact filtering (Kalman 1960) of obs (B, T, N) under actions (B, T, A). The likelihood of a sequence is
    `log_prob.sum(1)`."""
    A, B, H, Q, R, mean, P = system
    if obs.shape[:2] != actions.shape[:2] or obs.shape[-1] != len(H) or actions.shape[-1] != B.shape[1]:
        raise Refused(
            f"this system has {len(H)} observed features and {B.shape[1]} actions at each time; got obs "
            f"{tuple(obs.shape)} and actions {tuple(actions.shape)}"
        )
    log_probs, means, covariances = [], [], []
    mean = mean.expand(len(obs), -1)
    for x, action in zip(obs.unbind(1), actions.unbind(1)):
        mean, P = mean @ A.T + action @ B.T, A @ P @ A.T + Q
        S = H @ P @ H.T + R  # of the innovation
        gain = torch.linalg.solve(S, H @ P).T  # (Z, N)
        log_probs.append(MultivariateNormal(mean @ H.T, S).log_prob(x))
        mean, P = mean + (x - mean @ H.T) @ gain.T, P - gain @ S @ gain.T
        means.append(mean)
        covariances.append(P)
    return Belief(torch.stack(log_probs, 1), torch.stack(means, 1), torch.stack(covariances))


def open_loop(system: System, mean: Tensor, P: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The forecast without observations: of obs_{t+1} ... obs_{t+k} the means (B, k, N) and covariances (k, N, N), from
    a belief with mean (B, Z) and covariance P (Z, Z) under actions (B, k, A)."""
    A, B, H, Q, R, _, _ = system
    means, covariances = [], []
    for action in actions.unbind(1):
        mean, P = mean @ A.T + action @ B.T, A @ P @ A.T + Q
        means.append(mean @ H.T)
        covariances.append(H @ P @ H.T + R)
    return torch.stack(means, 1), torch.stack(covariances)


def lqr(A: Tensor, B: Tensor, Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """(K, P) of the linear-quadratic regulator: action = -K z is the least of sum over t >= 0 of z_t' Q z_t +
    action_t' R action_t with z_{t+1} = A z_t + B action_t, and z_0' P z_0 is what it costs.

    By iteration of Riccati's equation. Raises `Refused` where it does not settle: then no action steadies some mode.
    """
    P = Q
    for _ in range(100_000):
        K = torch.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        new = Q + A.T @ P @ (A - B @ K)
        new = (new + new.T) / 2
        if not new.isfinite().all():
            break
        if (new - P).abs().max() <= 1e-13 * new.abs().max():
            return torch.linalg.solve(R + B.T @ new @ B, B.T @ new @ A), new
        P = new
    raise Refused("Riccati's iteration does not settle: the actions reach too little of this system, or P is float32")


def steady_state(system: System) -> Tensor:
    """The covariance (Z, Z) of z_t given the observations before t, once a filter has forgotten its start: the
    regulator's equation with A and H transposed."""
    return lqr(system.A.T, system.H.T, system.Q, system.R)[1]


def _noise(covariance: Tensor, n: int) -> Tensor:
    """Draws (n, D) of N(0, covariance), which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return torch.randn(n, len(covariance), dtype=covariance.dtype) * values.clamp(min=0).sqrt() @ vectors.T
