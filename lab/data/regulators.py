"""The machine behind `regulation`: a genetic toggle switch and six regulators below it, under four drugs.

For regulator k, its production p_k a product of Hill factors, m_k what drugs multiply it by, 1 without them,

    x_k' = (e^(-dt) x_k + (1 - e^(-dt)) m_k p_k(x)) exp(noise xi_k - noise^2 / 2),   xi ~ N(0, I),

time in lifetimes of a regulator. Without noise this is exact where production is constant; it is never negative, and
for small dt it is the Ito equation dx = (m p(x) - x) dt + (noise / sqrt(dt)) x dW. The toggle is Gardner, Cantor and
Collins 2000: du/dt = alpha / (1 + v^2) - u, and v likewise. SERGIO (Dibaeinia and Sinha 2020) and BoolODE (Pratapa et
al. 2020) are such equations too, with noise that grows as square roots, of production and decay and of x.
"""

from dataclasses import dataclass
from math import asinh, exp, sinh

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.errors import Refused

DT, ALPHA, TOLERANCE, DEPTH_STD = 0.25, 3.3, 0.5, 0.3
REGULATORS = ("u", "v", "u1", "v1", "v2", "v3", "s", "h")
MOST = [ALPHA, ALPHA, 2.0, 2.0, 2.0, 2.0, 4.0, 1.0]  # what a regulator's parents command of its production, at most
LEAK = [0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]  # and what is made in any case
HIGH = (ALPHA + (ALPHA**2 - 4) ** 0.5) / 2  # of u and v the higher: at both attractors u v = 1 and u + v = alpha
MIDDLE = 2 / 3**0.5 * sinh(asinh(ALPHA * 27**0.5 / 2) / 3)  # of u and v between: u^3 + u = alpha
WIRING = pd.DataFrame(
    [
        ("v", "u", -1, 1.0, 2.0),
        ("u", "v", -1, 1.0, 2.0),
        ("u", "u1", 1, ALPHA / 2, 2.0),
        ("v", "v1", 1, ALPHA / 2, 2.0),
        ("v1", "v2", 1, 1.0, 2.0),
        ("u1", "v2", -1, 0.7, 2.0),
        ("v2", "v3", 1, 1.0, 2.0),
        ("h", "v3", 1, 1.0, 1.0),
        ("v", "s", 1, 1.2 * HIGH, 4.0),
    ],
    columns=["parent", "child", "sign", "threshold", "power"],
)
DOSES = pd.DataFrame({"gene": ["u", "v", "v3", "h"], "fold": [0.65, 3.0, 2.0, 0.5]})
HALF = 0.5  # the dose of half the effect that an endless one had
HOLD = 5  # steps at the end of which a cell must be at the target
IDLE = 40  # steps without a drug before a trajectory begins


def _matrix(column: str, empty: float) -> Tensor:
    """(K child, K parent): a column of the wiring, `empty` where there is no edge."""
    table = WIRING.pivot(index="child", columns="parent", values=column).reindex(REGULATORS)
    return torch.tensor(table.reindex(columns=REGULATORS).fillna(empty).to_numpy(float))


SIGN, THRESHOLD, POWER = _matrix("sign", 0.0), _matrix("threshold", 1.0), _matrix("power", 0.0)
DRUGGED = torch.tensor([REGULATORS.index(gene) for gene in DOSES["gene"]])
FOLD, LEAK, MOST = (torch.tensor(a, dtype=torch.float64) for a in (DOSES["fold"].to_list(), LEAK, MOST))


@dataclass(frozen=True, eq=False)
class Regulation:
    """The system itself: states (n, K) of K = 8 regulators, actions (n, A) of A = 4 doses in [0, 1], rates and counts
    (n, G) of genes. All tensors; `programme` (G, K), `base` and `theta` (G,). Randomness comes from a
    `torch.Generator` that the caller hands over: two calls with generators of one seed meet the same noise.

    `rest`, where cells live, `target`, the other attractor, and `saddle` between them (K,) are fixed points without
    noise and drugs: the toggle's solve u v = 1, u + v = alpha, and u = v; the others follow from it.
    """

    noise: float
    depth: float
    programme: Tensor
    base: Tensor
    theta: Tensor
    regulators: tuple[str, ...] = REGULATORS
    drugs: tuple[str, ...] = tuple(DOSES["gene"])
    dt: float = DT
    tolerance: float = TOLERANCE

    n_regulators = property(lambda self: len(self.regulators))
    n_actions = property(lambda self: len(self.drugs))
    n_genes = property(lambda self: len(self.base))
    wiring = property(lambda self: WIRING.copy())
    doses = property(lambda self: DOSES.copy())
    rest = property(lambda self: _fixed(HIGH, 1 / HIGH))
    target = property(lambda self: _fixed(1 / HIGH, HIGH))
    saddle = property(lambda self: _fixed(MIDDLE, MIDDLE))

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """Cells (n, K) at rest, as `IDLE` steps of noise have left them."""
        state = self.rest.float().expand(n, -1)
        for _ in range(IDLE):
            state = self.step(state, generator=generator)
        return state

    def step(self, state: Tensor, action: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The state (n, K) one `dt` later, under doses `action` (n, A) or (A,). Without a generator there is no noise:
        this is the mean of the next state given this one.
        """
        made = _production(self._checked(state))
        if action is not None:
            made = made * self._folds(action.to(state), state)
        keep = exp(-self.dt)
        state = keep * state + (1 - keep) * made
        if generator is None:
            return state
        xi = torch.randn(state.shape, generator=generator, dtype=state.dtype)
        return state * (self.noise * xi - self.noise**2 / 2).exp()

    def rollout(self, start: Tensor, actions: Tensor, seed: int | None = None) -> Tensor:
        """States (n, T + 1, K), the first `start` (n, K), under `actions` (n, T, A) or (T, A). One seed is one noise
        whatever the actions: two rollouts are the same cells under one treatment and under another. No seed, no noise.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        states = [start]
        for action in actions.unbind(-2):
            states.append(self.step(states[-1], action, generator))
        return torch.stack(states, -2)

    def rates(self, state: Tensor) -> Tensor:
        """Mean counts (..., G) of a cell of average library: `depth` shared out in proportion to base + programme x."""
        made = self._checked(state) @ self.programme.to(state).T + self.base.to(state)
        return self.depth * made / made.sum(-1, keepdim=True)

    def observe(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """Counts (n, G): negative binomial of mean library * rates and inverse dispersion theta, libraries log-normal
        around 1. Drawn by numpy, from a seed that the generator gives.
        """
        random = np.random.default_rng(torch.randint(2**62, (1,), generator=generator).item())
        rates, theta = self.rates(state.detach().double()).numpy(), self.theta.numpy()
        library = np.exp(random.normal(-(DEPTH_STD**2) / 2, DEPTH_STD, (*rates.shape[:-1], 1)))
        counts = random.poisson(random.standard_gamma(theta, rates.shape) * rates * library / theta)
        return torch.from_numpy(counts).to(state)

    def distance(self, state: Tensor) -> Tensor:
        """How far states (..., K) are from the target: the largest |log(x_k / target_k)|."""
        return (self._checked(state) / self.target.to(state)).log().abs().amax(-1)

    def reached(self, state: Tensor) -> Tensor:
        """Whether every regulator is within a factor e^tolerance of the target's; cells that live there nearly always
        are.
        """
        return self.distance(state) < self.tolerance

    def held(self, states: Tensor) -> Tensor:
        """Whether cells (..., T, K) are there at each of the last `HOLD` of T steps: passing through does not count."""
        return self.reached(states[..., -HOLD:, :]).all(-1)

    def _folds(self, action: Tensor, state: Tensor) -> Tensor:
        """What drugs multiply productions by (..., K): 1 at dose 0, `fold` at dose 1, saturating between."""
        if action.shape[-1:] != (self.n_actions,) or not ((action >= 0) & (action <= 1)).all():
            raise Refused(
                f"an action is {self.n_actions} doses in [0, 1], of drugs on {', '.join(self.drugs)}; this has shape "
                f"{tuple(action.shape)} and values from {action.min():.3g} to {action.max():.3g}; clamp it first"
            )
        given, cells = action.shape[:-1], state.shape[:-1]
        if len(given) > len(cells) or any(a not in (1, b) for a, b in zip(given[::-1], cells[::-1])):
            raise Refused(
                f"actions of shape {tuple(action.shape)} do not fit states of shape {tuple(state.shape)}; give every "
                "cell its own, or one to all"
            )
        effect = action * (1 + HALF) / (action + HALF)
        ones = action.new_ones(*action.shape[:-1], self.n_regulators)
        return ones.index_copy(-1, DRUGGED, 1 + (FOLD.to(action) - 1) * effect)

    def _checked(self, state: Tensor) -> Tensor:
        if state.shape[-1:] != (self.n_regulators,) or not (state >= 0).all() or state.isinf().any():
            raise Refused(
                f"a state is {self.n_regulators} amounts from 0 up, of {', '.join(self.regulators)}; this has shape "
                f"{tuple(state.shape)} and values from {state.min():.3g} to {state.max():.3g}; give such amounts"
            )
        return state


def _fixed(u: float, v: float) -> Tensor:
    """The fixed point (K,) where the toggle stands at (u, v): below it the wiring has no cycle."""
    state = torch.tensor([u, v] + [1.0] * (len(REGULATORS) - 2), dtype=torch.float64)
    for _ in range(3):  # the longest way from the toggle: v, v1, v2, v3
        state = torch.cat([state[:2], _production(state)[2:]])
    return state


def _production(state: Tensor) -> Tensor:
    """p(x) (..., K) without drugs: leak + most * product over parents of r / (1 + r) or 1 / (1 + r), r = (x / t)^n."""
    sign, threshold, power, leak, most = (a.to(state) for a in (SIGN, THRESHOLD, POWER, LEAK, MOST))
    r = (state[..., None, :] / threshold) ** power  # (..., K child, K parent)
    hill = torch.where(sign > 0, r, 1.0) / (1 + r)
    return leak + most * torch.where(sign == 0, 1.0, hill).prod(-1)
