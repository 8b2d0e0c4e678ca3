"""Predictions of what a perturbation does to cells; their judge, `evaluate`, for every chapter and outside them; and
small models that predict, one file a method, each with its ablation one argument away.

One protocol for all, `cells` being controls A and the perturbed cells that `hold_out` leaves to learn from:

    model = CPA(Design(cells), vae)                      # or another method
    model.predict(control, "A+B", seed=0) -> AnnData     # these control cells under it, counts in layers["counts"]
    predict(model, control, ["A", "A+B"], seed=0)        # several, as `evaluate` takes them

What has to be trained has a `loss(model, b, ...) -> dict` beside it, for `train.fit` and `train.steps` over
`model.design.loader(cells)`. `Design` says what labels are made of: A+B is A and B, and a part that no training cell
carries is refused, but by GEARS for a gene of its graph. GEARS predicts log expression, in X. What removes its idea:

    LatentArithmetic(vae, cells)            LatentArithmetic(Coordinates(...).fit(counts), cells)
    cpa.fit(model, batches, strength=50)    strength=0
    GEARS(cells, graph, n_layers=1)         n_layers=0, or rewired(graph)
    SparseShifts(design, vae)               sparse=False
    PerturbFlow, PerturbDiffusion(...)      told=False
"""

from . import cpa, gears, mechanisms, transport
from .cpa import CPA
from .design import Design, predict
from .evaluate import evaluate
from .gears import GEARS
from .graphs import coexpression_graph, gene_set_graph, rewired
from .latent import LatentArithmetic
from .mechanisms import SparseShifts, mcc, shifts_recovered
from .rows import METRICS, ROWS
from .scores import r2
from .splits import control_halves, hold_out
from .table import against, at_a_glance, draw, overall, summary
from .transport import PerturbDiffusion, PerturbFlow
