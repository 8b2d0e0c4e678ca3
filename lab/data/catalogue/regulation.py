"""A small simulated regulatory network in time, under doses of four drugs: two attractors, and what every cell would
have done under other doses.

A genetic toggle switch (Gardner, Cantor and Collins 2000, eq. 1: du/dt = alpha / (1 + v^2) - u, and v likewise) drives
six more regulators. For regulator k, its production p_k a product of Hill factors, m_k >= 0 what drugs multiply it by,

    x_k' = (x_k e^(-dt) + (1 - e^(-dt)) m_k p_k(x)) exp(noise xi - noise^2 / 2),   xi ~ N(0, 1),

time in lifetimes of a regulator: exact for constant production, never negative, and for small dt the Ito equation
dx = (m p(x) - x) dt + (noise / sqrt(dt)) x dW. SERGIO (Dibaeinia and Sinha 2020) and BoolODE (Pratapa et al. 2020) have
the same drift and noise that grows as the square root of x instead.
"""

from dataclasses import dataclass
from math import asinh, exp, sinh

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from lab.errors import Refused

from ..card import Card
from ..prepare import log_normalise

PRESETS = {"tiny": (60, 50, 40), "small": (200, 500, 40)}  # genes, trajectories, steps
LIMITS = {"n_genes": (20, 20_000), "n_trajectories": (1, 10**6), "n_steps": (1, 10**5), "noise": (0, 1)}
LIMITS |= {"depth": (1, 10**7)}

DT, ALPHA, TOLERANCE, DEPTH_STD = 0.25, 3.3, 0.5, 0.3
REGULATORS = ("u", "v", "u1", "v1", "v2", "v3", "s", "h")
MOST = (ALPHA, ALPHA, 2.0, 2.0, 2.0, 2.0, 4.0, 1.0)  # production with every activator present and no repressor
LEAK = (0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0)  # what the parents do not command
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
FOLD, LEAST, SPAN = (torch.tensor(a, dtype=torch.float64) for a in (DOSES["fold"].to_list(), LEAK, MOST))


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
            made = made * self._folds(action.to(state))
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

    def _folds(self, action: Tensor) -> Tensor:
        """What drugs multiply productions by (..., K): 1 at dose 0, `fold` at dose 1, saturating between."""
        if action.shape[-1:] != (self.n_actions,) or not ((action >= 0) & (action <= 1)).all():
            raise Refused(
                f"an action is {self.n_actions} doses in [0, 1], of drugs on {', '.join(self.drugs)}; this has shape "
                f"{tuple(action.shape)} and values from {action.min():.3g} to {action.max():.3g}; clamp it first"
            )
        effect = action * (1 + HALF) / (action + HALF)
        return (
            torch.ones_like(LEAST)
            .to(action)
            .expand(*action.shape[:-1], -1)
            .index_copy(-1, DRUGGED, 1 + (FOLD.to(action) - 1) * effect)
        )

    def _checked(self, state: Tensor) -> Tensor:
        if state.shape[-1:] != (self.n_regulators,) or not (state >= 0).all() or state.isinf().any():
            raise Refused(
                f"a state is {self.n_regulators} amounts from 0 up, of {', '.join(self.regulators)}; this has shape "
                f"{tuple(state.shape)} and values from {state.min():.3g} to {state.max():.3g}; give such amounts"
            )
        return state


def regulation_system(
    preset: str = "tiny", *, n_genes: int | None = None, noise: float = 0.04, depth: float | None = None
) -> Regulation:
    """The system that `regulation` is drawn from, to act on: the same genes for the same arguments, whatever the seed.

    The first eight genes are the regulators' own. Of the others, each reads one or two regulators, but for one in
    five, which reads none. `depth`, mean UMIs a cell, is 10 a gene where nothing is said.
    """
    _check(locals())
    n_genes = n_genes or PRESETS[preset][0]
    random, k = np.random.default_rng(0), len(REGULATORS)
    programme = np.zeros((n_genes, k))
    programme[:k] = 0.3 * np.eye(k)  # few transcripts, as transcription factors have
    for gene in range(k, n_genes):
        reads = random.choice(k, 2, replace=False)[: random.choice(3, p=[0.2, 0.5, 0.3])]
        programme[gene, reads] = random.gamma(2.0, 0.5, len(reads))
    base = random.gamma(1.0, 0.3, n_genes) + 0.05
    theta = random.gamma(4.0, 1.0, n_genes) + 1.0
    tensors = (torch.from_numpy(array) for array in (programme, base, theta))
    return Regulation(noise, depth or 10.0 * n_genes, *tensors)


def regulation(
    preset: str = "tiny",
    *,
    n_genes: int | None = None,
    n_trajectories: int | None = None,
    n_steps: int | None = None,
    noise: float = 0.04,
    depth: float | None = None,
    seed: int = 0,
) -> ad.AnnData:
    """Cells followed in time under random doses: rows are trajectories' times 0 to `n_steps`, in order, so that
    `reshape(n_trajectories, n_steps + 1, -1)` has one trajectory a row. `preset`: "tiny" (60 genes, 50 trajectories of
    40 steps) or "small" (200, 500, 40), whose numbers `n_genes`, `n_trajectories` and `n_steps` replace.

    All start at rest. Doses change at random, every ten steps on average, to those of no drug (30 %), one (50 %) or two
    (20 %), uniform on [0, 1]. A cell is measured at every step and lives on, which no experiment with counts does.

    `obs`: `trajectory`, `time` (in steps of `dt`), `perturbation` ("control", "v", "u+v"), `dose` (the largest),
    `n_counts`. `obsm["action"]` (N, A) is what *led to* the row, zeros at time 0; `obsm["state"]` (N, K) what is
    hidden. `var` `theta`, `base` and `varm["programme"]`: the law of counts. `uns["regulation"]`: the wiring, drugs,
    fixed points and knobs. `seed` draws cells, doses and counts, never the genes: two seeds are two samples of one
    system.
    """
    _check(locals())
    genes, n, steps = (own or preset_ for own, preset_ in zip((n_genes, n_trajectories, n_steps), PRESETS[preset]))
    system = regulation_system(preset, n_genes=genes, noise=noise, depth=depth)
    generator = torch.Generator().manual_seed(seed)
    start, actions = system.start(n, generator), _treatments(n, steps, system.n_actions, generator)
    states = system.rollout(start, actions, seed=torch.randint(2**62, (1,), generator=generator).item())
    counts = sparse.csr_matrix(system.observe(states, generator).reshape(-1, genes).numpy(), dtype=np.int32)
    doses = torch.cat([torch.zeros(n, 1, system.n_actions), actions], 1).reshape(-1, system.n_actions).numpy()
    names = np.array([*system.regulators, *(f"gene {k + 1}" for k in range(system.n_regulators, genes))])
    cells = ad.AnnData(
        log_normalise(counts, total := np.asarray(counts.sum(1)).ravel()),
        obs=pd.DataFrame(
            {
                "trajectory": np.repeat(np.arange(n), steps + 1),
                "time": np.tile(np.arange(steps + 1), n),
                "perturbation": pd.Categorical([_label(system.drugs, dose) for dose in doses]),
                "dose": doses.max(1),
                "n_counts": total.astype(float),
            },
            index=[f"cell {i} at {t}" for i in range(n) for t in range(steps + 1)],
        ),
        var=pd.DataFrame({"base": system.base.numpy(), "theta": system.theta.numpy()}, index=names),
        layers={"counts": counts},
        obsm={"state": states.reshape(-1, system.n_regulators).numpy(), "action": doses},
        varm={"programme": system.programme.numpy()},
    )
    known = {"wiring": system.wiring, "doses": system.doses, "regulators": list(system.regulators)}
    known |= {"drugs": list(system.drugs), "rest": system.rest.numpy(), "target": system.target.numpy()}
    known |= {"tolerance": TOLERANCE, "dt": DT, "noise": noise, "depth": system.depth}
    cells.uns["regulation"] = known
    return cells


CARD = Card(
    call="regulation()",
    kind="simulated",
    cells=PRESETS["tiny"][1] * (PRESETS["tiny"][2] + 1),
    genes=PRESETS["tiny"][0],
    licence="none needed",
    source=__name__,
)


def _fixed(u: float, v: float) -> Tensor:
    """The fixed point (K,) where the toggle stands at (u, v): below it the wiring has no cycle."""
    state = torch.tensor([u, v] + [1.0] * (len(REGULATORS) - 2), dtype=torch.float64)
    for _ in range(3):  # the longest way from the toggle: v, v1, v2, v3
        state = torch.cat([state[:2], _production(state)[2:]])
    return state


def _production(state: Tensor) -> Tensor:
    """p(x) (..., K) without drugs: leak + most * product over parents of r / (1 + r) or 1 / (1 + r), r = (x / t)^n."""
    sign, threshold, power, leak, most = (a.to(state) for a in (SIGN, THRESHOLD, POWER, LEAST, SPAN))
    r = (state[..., None, :] / threshold) ** power  # (..., K child, K parent)
    hill = torch.where(sign > 0, r, 1.0) / (1 + r)
    return leak + most * torch.where(sign == 0, 1.0, hill).prod(-1)


def _treatments(n: int, steps: int, drugs: int, generator: torch.Generator) -> Tensor:
    """Doses (n, T, A), constant for ten steps on average: what is drawn at each step is held until the next change."""
    draw = lambda *shape: torch.rand(n, steps, *shape, generator=generator)
    number = torch.bucketize(draw(), torch.tensor([0.3, 0.8]))  # of drugs: none, one, two
    rank = draw(drugs).argsort(-1).argsort(-1)
    doses = torch.where(rank < number[..., None], draw(drugs), 0.0)
    change = draw() < 0.1
    change[:, 0] = True
    last = torch.where(change, torch.arange(steps), 0).cummax(1).values
    return doses.gather(1, last[..., None].expand(-1, -1, drugs))


def _label(drugs: tuple[str, ...], dose: np.ndarray) -> str:
    return "+".join(drug for drug, d in zip(drugs, dose) if d > 0) or "control"


def _check(knobs: dict) -> None:
    """Refuse a preset that is not there or a knob out of its range, in one sentence."""
    if knobs["preset"] not in PRESETS:
        raise Refused(f"preset={knobs['preset']!r} is not known; it is one of {', '.join(PRESETS)}")
    for name, (low, high) in LIMITS.items():
        if (knob := knobs.get(name)) is not None and not low <= knob <= high:
            raise Refused(f"{name}={knob}: it must lie between {low:,} and {high:,}")
