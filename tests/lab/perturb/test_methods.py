"""One protocol for all methods, and what each refuses, in one sentence."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from screens import screen

from lab import perturb, vae
from lab.errors import Refused
from lab.nets import Coordinates
from lab.perturb import cpa, mechanisms

GENES = 50
GRAPH = pd.DataFrame(np.eye(3, k=1, dtype=int) + np.eye(3, k=-1, dtype=int), list("ABC"), list("ABC"))


@pytest.fixture(scope="module")
def s():
    found = screen(names=["A", "B", "A+B"], effect=0.3, genes=GENES, seed=1)
    found.a.obs["n_counts"] = found.cells.obs["n_counts"] = 4000.0
    found.a.obs["cell_type"] = found.cells.obs["cell_type"] = "x"
    return found


def cells_of(s):
    return ad.concat([s.a, s.cells])


def design(s, **how):
    return perturb.Design(cells_of(s), **how)


def coordinates(s):
    return Coordinates(GENES, 5).fit(s.a.layers["counts"])


def count_vae(**how):
    return vae.count_vae(GENES, 4, 16, **how)


METHODS = {
    "latent arithmetic": lambda s: perturb.LatentArithmetic(count_vae(), cells_of(s)),
    "arithmetic of components": lambda s: perturb.LatentArithmetic(coordinates(s), cells_of(s)),
    "CPA": lambda s: perturb.CPA(design(s), count_vae()),
    "GEARS": lambda s: perturb.GEARS(cells_of(s), GRAPH),
    "sparse shifts": lambda s: perturb.SparseShifts(design(s), count_vae()).eval(),
    "flow": lambda s: perturb.PerturbFlow(design(s), coordinates(s), s.a.layers["counts"]),
    "diffusion": lambda s: perturb.PerturbDiffusion(design(s), coordinates(s)),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_predicts_is_cells_that_the_judge_takes(s, name):
    torch.manual_seed(0)
    model = METHODS[name](s)
    state = torch.get_rng_state()
    predicted = perturb.predict(model, s.a, ["A", "B+A"], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    again = perturb.predict(model, s.a, ["A", "B+A"], seed=3)
    values = lambda p: p.layers["counts"].toarray() if "counts" in p.layers else p.X
    np.testing.assert_array_equal(values(predicted), values(again))
    assert predicted.obs_names.is_unique and predicted.n_obs == 2 * s.a.n_obs
    assert predicted.obs["perturbation"].value_counts().to_dict() == {"A": s.a.n_obs, "B+A": s.a.n_obs}
    assert list(predicted.obs.columns) == ["cell_type", "n_counts", "perturbation"]
    assert predicted.var_names.equals(s.a.var_names) and np.isfinite(values(predicted)).all()
    truth = s.cells[s.cells.obs["perturbation"].isin(["A"]).to_numpy()].copy()
    only = predicted[(predicted.obs["perturbation"] == "A").to_numpy()].copy()
    truth_b = s.cells[s.cells.obs["perturbation"].isin(["B"]).to_numpy()].copy()
    both = ad.concat([only, model.predict(s.a, "B")])
    b = s.b.copy()
    b.obs["n_counts"] = 4000.0
    table = perturb.evaluate(both, ad.concat([truth, truth_b]), control=s.a, truth_control=b, splits=1)
    assert np.isfinite(table.loc[(table["row"] == "model") & (table["metric"] == "MSE"), "value"]).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_perturbation_that_no_training_cell_has_is_refused_but_for_a_gene_of_the_graph(s, name):
    model = METHODS[name](s)
    for unknown in ("X", "A+X"):
        with pytest.raises(Refused, match="'X'"):
            model.predict(s.a, unknown)
    if name == "GEARS":
        model.predict(s.a, "C")
    else:
        with pytest.raises(Refused, match="'C'"):
            model.predict(s.a, "C")


@pytest.mark.parametrize("name", METHODS)
def test_other_genes_are_refused(s, name):
    with pytest.raises(Refused, match="take control"):
        METHODS[name](s).predict(s.a[:, ::-1].copy(), "A")


def only_pairs(s):
    cells = cells_of(s)
    return cells[cells.obs["perturbation"].isin(["control", "A+B"]).to_numpy()].copy()


def with_text_doses(s):
    cells = cells_of(s)
    cells.obs["dose"] = "high"
    return cells


def kinds(s):
    """Controls of one type, perturbed cells of another."""
    cells = cells_of(s)
    cells.obs["cell_type"] = np.where(cells.obs["perturbation"] == "control", "x", "y")
    return cells


lopsided = GRAPH.mul([[1, 1, 1], [0, 1, 1], [1, 1, 1]])
EDGE = pd.DataFrame([[0, 1], [1, 0]], list("AB"), list("AB"))
E = np.eye(4)
REFUSED = {  # what is wrong: (what is done, words of the sentence)
    "no controls to learn from": (lambda s: perturb.Design(s.cells), "labelled 'control' and from perturbed ones"),
    "nothing but controls": (lambda s: perturb.Design(s.a), "from perturbed ones"),
    "a column that is missing": (lambda s: design(s, by="target"), "no column 'target'"),
    "a dose below 0": (lambda s: design(s).row("A", -1.0), "dose=-1.0"),
    "doses that are words": (
        lambda s: perturb.Design(with_text_doses(s), dose="dose").loader(with_text_doses(s)),
        "holds no numbers",
    ),
    "one name for a list": (lambda s: perturb.predict(METHODS["CPA"](s), s.a, "A"), "names='A'"),
    "no names": (lambda s: perturb.predict(METHODS["CPA"](s), s.a, []), "names=[]"),
    "arithmetic with a conditional VAE": (
        lambda s: perturb.LatentArithmetic(count_vae(conditions={"batch": 2}), cells_of(s)),
        "was told batch",
    ),
    "arithmetic with another VAE's genes": (
        lambda s: perturb.LatentArithmetic(vae.count_vae(9), cells_of(s)),
        "made for 9 genes",
    ),
    "no type that has both": (
        lambda s: perturb.LatentArithmetic(coordinates(s), kinds(s), group="cell_type"),
        "no group has both",
    ),
    "a part that has no cells of its own": (
        lambda s: perturb.LatentArithmetic(coordinates(s), only_pairs(s)).predict(s.a, "A"),
        "only together with others",
    ),
    "CPA with a conditional VAE": (lambda s: perturb.CPA(design(s), count_vae(conditions={"b": 2})), "is told b"),
    "an adversary that pulls": (lambda s: cpa.fit(METHODS["CPA"](s), [], n=1, strength=-1.0), "strength=-1.0"),
    "an adversary without turns": (lambda s: cpa.fit(METHODS["CPA"](s), [], n=1, turns=0), "turns=0"),
    "a leak of three cells": (lambda s: cpa.leak(METHODS["CPA"](s), s.cells[:3].copy()), "four cells a label"),
    "a graph of layers below none": (lambda s: perturb.GEARS(cells_of(s), GRAPH, n_layers=-1), "n_layers=-1"),
    "a graph that goes one way": (lambda s: perturb.GEARS(cells_of(s), lopsided), "a symmetric table"),
    "a graph with weights": (lambda s: perturb.GEARS(cells_of(s), GRAPH * 0.5), "a symmetric table of 0 and 1"),
    "a graph without a target": (
        lambda s: perturb.GEARS(cells_of(s), GRAPH.iloc[1:, 1:]),
        "'A' is no gene of the graph",
    ),
    "no neighbours": (lambda s: perturb.coexpression_graph(s.a, 0), "k=0"),
    "more neighbours than genes": (lambda s: perturb.coexpression_graph(s.a, GENES), f"k={GENES}"),
    "gene sets with loadings": (lambda s: perturb.gene_set_graph(GRAPH * 0.5, 1), "of 0 and 1, a row a gene"),
    "nothing to rewire": (lambda s: perturb.rewired(EDGE), "no two to exchange"),
    "masks of a conditional VAE": (
        lambda s: perturb.SparseShifts(design(s), count_vae(conditions={"b": 2})),
        "a VAE without conditions",
    ),
    "masks that are all open": (lambda s: perturb.SparseShifts(design(s), count_vae(), share=1.0), "share=1.0"),
    "masks of no cells": (lambda s: mechanisms.loss(METHODS["sparse shifts"](s), {}, n_cells=0), "n_cells=0"),
    "fewer codes than mechanisms": (lambda s: perturb.mcc(E[:, :2], E), "Z >= K"),
    "a mechanism that never moves": (lambda s: perturb.mcc(E, np.zeros((4, 2))), "the same in all rows"),
    "shifts with NaN": (lambda s: perturb.shifts_recovered(E * np.nan, E), "NaN"),
    "a flow from nowhere": (
        lambda s: perturb.PerturbFlow(design(s), coordinates(s), s.a.layers["counts"][:0]),
        "begins at control cells",
    ),
    "a flow without steps": (lambda s: METHODS["flow"](s).predict(s.a, "A", n_steps=0), "n_steps=0"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_could_give_a_wrong_number_is_refused_in_a_sentence(s, wrong):
    done, words = REFUSED[wrong]
    with pytest.raises(Refused) as said:
        done(s)
    assert words in str(said.value) and "\n" not in str(said.value)
