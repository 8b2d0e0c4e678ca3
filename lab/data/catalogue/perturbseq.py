"""A simulator of Perturb-seq: cells with one or two perturbed genes, and what each cell would have been without."""

import anndata as ad
import numpy as np
import pandas as pd

from lab.errors import Refused

from ..card import Card
from ..screen import check, genes, law, perturbations

PRESETS = {  # genes, cells, targets, doubles
    "tiny": (300, 2_000, 10, 4),
    "small": (1_000, 10_000, 30, 20),
    "medium": (2_000, 50_000, 80, 60),
}


def perturbseq(
    preset: str = "tiny",
    *,
    n_genes: int | None = None,
    n_cells: int | None = None,
    n_targets: int | None = None,
    n_doubles: int | None = None,
    n_modules: int = 8,
    n_guides: int = 3,
    n_batches: int = 4,
    screen: str = "interference",
    effect: float = 1.0,
    systematic: float = 0.1,
    mix: tuple[float, float, float] = (0.45, 0.30, 0.25),
    epistasis: float = 1.0,
    cis: float = 0.3,
    escape: float = 0.1,
    fitness: float = 0.5,
    depth_loss: float = 0.5,
    arrest: float = 1.0,
    control: float = 0.12,
    depth: float | None = None,
    depth_std: float = 0.4,
    outside: float = 0.0,
    spread: float = 1.85,
    dispersion: tuple[float, float, float] = (0.55, -0.3, 0.5),
    state: float = 0.3,
    cycle: float = 0.5,
    batch_std: float = 0.1,
    confounding: float = 0.0,
    zero_inflation: float = 0.0,
    expression: pd.DataFrame | None = None,
    annotation: pd.DataFrame | None = None,
    gene_sets: pd.DataFrame | None = None,
    seed: int = 0,
) -> ad.AnnData:
    """A CRISPR screen read out by single-cell RNA sequencing, in which every cause of every count is known:

        x_ig ~ NB(size_i exp(-depth_loss cost) softmax(log rate_i)_g, theta_g), log rate as in `lab.data.screen.law`.

    Targets are nodes of a random directed graph. They act on overlapping modules of genes, on a few genes of their own,
    on themselves and on their neighbours. `preset`: "tiny" (300 genes x 2,000 cells, 10 targets, 4 doubles), "small"
    (1,000 x 10,000, 30, 20) or "medium" (2,000 x 50,000, 80, 60; 2 GB). `n_genes`, `n_cells`, `n_targets`, `n_doubles`
    replace its numbers, real tables (`expression`, `annotation`, `gene_sets`) its genes.

    Knobs, and what their defaults are taken from (Norman 2019: K562, 125 doubles; Papalexi 2021: THP-1):

    - `screen`: what becomes of the target's mRNA, "interference" (1 % at full efficiency), "activation" (six-fold) or
      "knockout" (unchanged). 51 guides of a TAP-seq screen leave .01 / .11 / .20 / .60 / .95 of it at 5 / 25 / 50 /
      75 / 95 %: one in four is a dud.
    - `effect`: scales all that a perturbation does. `systematic`, 0 to 1: what all perturbed cells share; at .1 and in
      Papalexi's design the mean of the others correlates with a target's shift by 0 to .3 (disjoint controls; Papalexi
      .04, Norman .26). With both 0 the labels mean nothing.
    - `mix`: shares of targets with no, a weak, a strong effect; 46 / 29 / 25 % in the Virtual Cell Challenge's pilot.
    - `epistasis`: scales what a double does beyond c1 shift1 + c2 shift2; 4.5 % of Norman's genes deviate, mostly up
      (Ahlmann-Eltze 2025). Regressions find c1, c2 with Norman's medians .74 and .69, one of them below .5 in 44 %.
    - `cis`: how much of the target's change the gene beside it shares, times exp(-distance / 50 kb). A choice.
    - `escape`: share of cells that carry a guide and are not changed; 0 to .2, Mixscape's mixture (Papalexi).
    - `fitness`: a condition's share of cells falls by exp(-cost), cost ~ `fitness` strength Exponential(1); 48 to 1,341
      cells a target in Papalexi. `depth_loss`: its share lost in UMIs; in Norman doubles have 12.0k, singles 13.7k.
    - `arrest`: how far three targets in ten hold cells in G1, a class of its own in Norman.
    - `control`: share of control cells; .12 in Papalexi, .11 in Norman.
    - `depth`: mean UMIs a cell (3 a gene). `depth_std`, log-sd: .28 to .33 in a type of PBMC, .37 to .41 in Norman, .54
      to .59 in targeted panels. `spread`: log-sd of the genes' means, 1.85 in Papalexi's controls. `outside`: share of
      UMIs in genes not simulated, .99 for Norman's 500: then these genes hardly take from one another.
    - `dispersion` (a, b, s): Var = mean + phi mean^2, phi = a mean^b exp(s N(0, 1)), all of it but the depth's. Kang's
      monocytes have phi 1.27 / .80 / .75 / .66 / .40 / .25 at means .07 / .17 / .5 / 1.7 / 5 / 20.
    - `state`: sd of a module's activity over cells. `cycle`: log amplitude of the S and G2M programmes. `batch_std`:
      log-sd of a batch's effect on a gene. `confounding`: probability that the perturbation decides a cell's batch.
    - `zero_inflation`: share of counts set to 0, the mean unchanged; 0, as zeros follow the NB in real cells.
    - `expression`: genes x `mean` (and `phi`, if known). `annotation`: genes x `chromosome`, `start`. `gene_sets`:
      genes x sets, from `programmes`; they become the modules. Numbers other than 0 and 1 are taken for loadings.

    `obs`: `perturbation` (control, a gene, or A+B), `dose`, `control`, `nperts`, `guide`, `batch`, `phase`, `n_counts`.
    Hidden in a real screen: `obs` `cycle`, `escaped`, `size`; `obsm["state"]`; `var` `share`, `base`, `theta`,
    `systematic`; `varm` `module`, `cycle`, `shift`, `local`, `epistasis`, `batch`; `uns["perturbseq"]` `singles`,
    `doubles`, `guides`, `edges`. From these `truth` and `counterfactual` are computed, also after `write_h5ad`.
    """
    check(locals(), PRESETS)
    n_genes = len(expression) if n_genes is None and expression is not None else n_genes
    asked = zip((n_genes, n_cells, n_targets, n_doubles), PRESETS[preset])
    n, n_cells, n_targets, n_doubles = (preset_ if own is None else own for own, preset_ in asked)
    if n_cells < 10 * (1 + n_targets + n_doubles) or not 2 <= n_targets <= n // 3 or n_doubles < 0:
        raise Refused(
            f"{n_cells} cells, {n} genes, {n_targets} targets, {n_doubles} doubles: it takes ten cells a condition, "
            "two targets and three genes a target; change n_cells, n_genes, n_targets or n_doubles"
        )
    random, fold = np.random.default_rng(seed), perturbations.FOLD[screen]
    if depth is None:
        depth = 3.0 * n if expression is None else float(expression["mean"].sum())

    table = genes.table(random, n, spread, annotation, expression, gene_sets)
    modules = genes.modules(random, table.index, n_modules, gene_sets)
    phases = genes.cycle(random, table.index, cycle)
    hidden = (state**2 * modules**2).sum(axis=1) + (phases**2).sum(axis=1) / 2  # variance of a gene's log rate
    var = genes.noise(random, table, hidden, depth, dispersion, expression)
    var["systematic"] = perturbations.common_shift(random, modules, systematic)

    what = {"effect": effect, "mix": mix, "fitness": fitness, "arrest": arrest, "fold": fold}
    singles, shift, edges = perturbations.targets(random, modules, n_targets, **what)
    guides = perturbations.guides(random, singles.index, n_guides)
    doubles, own = perturbations.doubles(random, singles, shift, n_doubles, effect * epistasis)
    batch = perturbations.batches(random, table.index, n_batches, batch_std)

    obs = perturbations.cells(random, n_cells, singles, doubles, n_guides, control, escape)
    obs["batch"] = perturbations.batch_of(random, obs["perturbation"], batch.columns, confounding)
    obs["size"] = depth * np.exp(random.normal(-(depth_std**2) / 2, depth_std, n_cells))
    varm = {"module": modules, "cycle": phases, "shift": shift, "epistasis": own, "batch": batch}
    cells = ad.AnnData(obs=obs, var=var, varm=varm | {"local": genes.local(table, singles.index, cis)})
    cells.obsm["state"] = random.normal(0, state, (n_cells, modules.shape[1]))
    knobs = {"depth_loss": depth_loss, "escape": escape, "state": state, "zero_inflation": zero_inflation}
    knobs |= {"n_genes": n, "outside": outside}
    cells.uns["perturbseq"] = {"singles": singles, "doubles": doubles, "guides": guides, "edges": edges, "knobs": knobs}
    return law.with_counts(cells, seed)


CARD = Card(
    call="perturbseq()",
    kind="simulated",
    cells=PRESETS["tiny"][1],
    genes=PRESETS["tiny"][0],
    licence="none needed",
    source=__name__,
)


def counterfactual(cells: ad.AnnData, perturbation: str | None = None) -> np.ndarray:
    """True mean counts (N, G) of each simulated cell had it carried `perturbation` ("control": none), all else of the
    cell unchanged: state, place in the cycle, batch, library, whether it escapes, and the number of its guide. Without
    `perturbation`, the factual mean. Two calls give what no experiment sees: the same cell with and without. The array
    is dense: choose cells first, `counterfactual(cells[:1000], ...)`.
    """
    labels = cells.obs["perturbation"] if perturbation is None else [perturbation] * cells.n_obs
    share, size = law.rates(law.parameters(cells), labels, cells.obs, cells.obsm["state"])
    return share * size[:, None]


def truth(cells: ad.AnnData, perturbation: str) -> pd.DataFrame:
    """Genes x (`control`, `perturbed`): the noise-free mean profile of both populations, in counts per 10,000 (where
    there are genes `outside`, per 10,000 that a control cell has in these).

    Each is the mean of 4,096 cells' expected shares of their UMIs, the same cells in both, spread evenly over states,
    cycle, batches, guides and escape (Sobol points). Nothing is drawn.
    """
    known = law.parameters(cells)
    population = law.population(known)
    mean = lambda label: 1e4 * law.mean_share(known, label, *population)
    return pd.DataFrame({"control": mean(perturbations.CONTROL), "perturbed": mean(perturbation)}, cells.var_names)
