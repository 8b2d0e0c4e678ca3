"""CPA: effects add up in the code, the adversary empties it of labels, and a dose's curve is the simulator's."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from screens import screen
from torch import nn

from lab import perturb, train, vae
from lab.perturb import cpa

GENES = 80


def built(cells, n_latent=8, **how):
    """With a decoder whose log rates are linear in the code, as the simulator's are in the perturbations."""
    torch.manual_seed(0)
    model = vae.count_vae(cells.n_vars, n_latent, 64)
    model.decoder.net = nn.Linear(n_latent, cells.n_vars)
    return cpa.CPA(perturb.Design(cells, **how), model)


@pytest.fixture(scope="module")
def additive():
    """Six singles and two pairs to learn from, two pairs to predict, on each gene's log rate a sum."""
    s = screen(names=[*"ABCDEF", "E+F", "A+C", "A+B", "C+D"], effect=0.5, genes=GENES, seed=1, cells=150, controls=150)
    known, s.cells = perturb.hold_out(s.cells, test=["A+B", "C+D"])
    return s, known, ad.concat([s.a, known])


@pytest.fixture(scope="module")
def fitted(additive):
    found = {}
    for strength in (0.0, 50.0):
        model = built(additive[2])
        table = cpa.fit(model, model.design.loader(additive[2]), n=200, strength=strength, turns=2, lr=1e-2)
        found[strength] = model, table
    return found


def test_a_pair_is_the_sum_of_its_parts_in_the_code_and_dose_0_is_nothing(additive):
    model = built(additive[2])
    e = lambda name, dose=1.0: model.effect(model.design.row(name, dose))
    torch.testing.assert_close(e("B+A"), e("A") + e("B"))
    assert not e("A", 0.0).any() and not e("control").any()
    torch.testing.assert_close(e("A"), model.vectors[0])


def test_without_its_adversary_it_is_a_vae_whose_code_is_moved_and_controls_are_not(additive):
    s, _, cells = additive
    model = built(cells)
    b = next(iter(model.design.loader(cells)))
    is_control = b["perturbation"] == 0
    b = {name: value[is_control] for name, value in b.items()}
    torch.manual_seed(3)
    ours = cpa.loss(model, cpa.adversary_of(model), b, strength=0.0)
    torch.manual_seed(3)
    cpa.adversary_of(model)  # takes as much of the stream
    torch.testing.assert_close(ours["loss"], vae.loss(model.vae, b)["loss"])


def test_the_adversary_learns_only_in_its_own_turns_and_the_model_in_its(additive):
    model = built(additive[2])
    adversary, batches = cpa.adversary_of(model), model.design.loader(additive[2])
    state = lambda net: torch.cat([p.detach().flatten() for p in net.parameters()])
    before = state(model), state(adversary)
    next(train.steps(model, partial(cpa.loss, model, adversary, strength=10.0), batches, n=1))
    assert not torch.equal(state(model), before[0]) and torch.equal(state(adversary), before[1])
    model_now = state(model)
    next(train.steps(adversary, partial(cpa.adversary_loss, adversary, model), batches, n=1))
    assert torch.equal(state(model), model_now) and not torch.equal(state(adversary), before[1])


def test_with_the_adversary_a_classifier_that_it_never_met_is_near_chance_and_without_far_above(additive, fitted):
    cells = additive[2]
    without, with_ = (cpa.leak(fitted[strength][0], cells) for strength in (0.0, 50.0))
    assert without.accuracy > without.chance + 20 * without.error
    assert abs(with_.accuracy - with_.chance) < 0.15 * (without.accuracy - without.chance) + 3 * with_.error
    assert "accuracy" in fitted[50.0][1] and "accuracy" not in fitted[0.0][1] and len(fitted[50.0][1]) == 200


def test_pairs_that_no_cell_has_shown_are_predicted_and_better_with_the_adversary_than_without(additive, fitted):
    """Without it the basal code of a control says that nothing was done to it, which the decoder heeds."""
    s, known, _ = additive
    said = {}
    for strength, (model, _) in fitted.items():
        predicted = perturb.predict(model, s.a, ["A+B", "C+D"])
        said[strength] = perturb.at_a_glance(s.judged(predicted, train=known, splits=1), "mean")
    mse = {strength: table.loc["MSE", "model"] for strength, table in said.items()}
    assert mse[50.0] < 0.5 * said[50.0].loc["MSE", "no-change"] and mse[50.0] < 0.8 * mse[0.0]
    assert said[50.0].loc["delta-correlation (control)", "model"] > 0.75


def test_labels_dealt_at_random_leak_nothing(additive, fitted):
    cells = additive[2].copy()
    cells.obs["perturbation"] = np.random.default_rng(0).permutation(cells.obs["perturbation"])
    kinds = pd.CategoricalDtype([*cells.obs["perturbation"].unique(), "one without cells"])
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(kinds)
    found = cpa.leak(fitted[0.0][0], cells)
    assert abs(found.accuracy - found.chance) < 3 * found.error


def dosed(seed=0, doses=(0.1, 0.3, 1.0, 3.0), cells=150):
    """One drug at four doses: log rates move by a direction times its curve, 1 at dose 1."""
    random = np.random.default_rng(seed)
    rate, way = random.normal(0, 1, GENES), 0.5 * random.normal(size=GENES)
    dose = np.repeat([0.0, *doses], [2 * cells] + [cells] * len(doses))
    share = np.exp(rate + truth(dose)[:, None] * way)
    x = random.poisson(1500 * share / share.sum(1, keepdims=True))
    x[:, 0] += 1
    obs = pd.DataFrame(
        {"perturbation": np.where(dose > 0, "D", "control"), "dose": dose}, [f"c{i}" for i in range(len(x))]
    )
    return ad.AnnData(
        layers={"counts": sparse.csr_matrix(x)}, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(GENES)])
    )


def truth(dose):
    curve = lambda d: 1 / (1 + np.exp(-(4.0 * np.log1p(d) - 3.0))) - 1 / (1 + np.exp(3.0))
    return curve(np.asarray(dose)) / curve(1.0)


def test_the_curve_of_a_dose_is_the_one_that_was_simulated_and_rises():
    cells = dosed()
    model = built(cells, 4, dose="dose")
    cpa.fit(model, model.design.loader(cells), n=1500, strength=20.0, turns=1, lr=1e-2)
    at = torch.tensor([[0.0], [0.1], [0.3], [1.0], [3.0]])
    found = model.curve(at).detach().numpy().ravel()
    assert (np.diff(found) > 0).all() and found[0] == 0 and found[3] == pytest.approx(1)
    np.testing.assert_allclose(found, truth([0, 0.1, 0.3, 1, 3]), atol=0.1)  # it began .2 away
    control = cells[(cells.obs["dose"] == 0).to_numpy()].copy()
    share = lambda some: np.asarray(some.layers["counts"].sum(0)).ravel() / some.layers["counts"].sum()
    profile = lambda some: np.log1p(1e4 * share(some))
    for dose in (0.3, 3.0):
        real = profile(cells[(cells.obs["dose"] == dose).to_numpy()]) - profile(control)
        said = profile(model.predict(control, "D", dose=dose)) - profile(control)
        assert np.corrcoef(real, said)[0, 1] > 0.9 and 0.6 < np.linalg.norm(said) / np.linalg.norm(real) < 1.4
