"""A small regulatory network followed in time under random doses of four drugs, and the system itself to act on: it has
two attractors, and the same cell can be seen under one treatment and under another.
"""

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from lab.errors import Refused

from ..card import Card
from ..prepare import log_normalise
from ..regulators import REGULATORS, Regulation

PRESETS = {"tiny": (60, 50, 40), "small": (200, 500, 40)}  # genes, trajectories, steps
LIMITS = {"n_genes": (20, 20_000), "n_trajectories": (1, 10**6), "n_steps": (1, 10**5), "noise": (0, 1)}
LIMITS |= {"depth": (1, 10**7)}


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
    known |= {"tolerance": system.tolerance, "dt": system.dt, "noise": noise, "depth": system.depth}
    cells.uns["regulation"] = known
    return cells


CARD = Card(
    call="regulation()",
    kind="simulated",
    cells=PRESETS["tiny"][1] * (PRESETS["tiny"][2] + 1),
    genes=PRESETS["tiny"][0],
    licence="none needed",
    citation="gardner2000",  # the toggle's equations
    source=__name__,
)


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
