"""A flow from controls and a diffusion from noise: what each keeps of a cell, and what they know without labels."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from screens import profile, screen

from lab import metrics, perturb, train
from lab.nets import Coordinates
from lab.perturb import transport

GENES = 60


@pytest.fixture(scope="module")
def s():
    return screen(names=["A", "B", "C"], effect=0.5, genes=GENES, seed=2, cells=150, controls=200)


def built(s, kind, told=True):
    cells = ad.concat([s.a, s.cells])
    torch.manual_seed(0)
    coordinates = Coordinates(GENES, 10).fit(cells.layers["counts"])
    design, how = perturb.Design(cells), {"told": told, "n_hidden": 64}
    if kind == "flow":
        return cells, transport.PerturbFlow(design, coordinates, s.a.layers["counts"], **how)
    return cells, transport.PerturbDiffusion(design, coordinates, **how)


@pytest.fixture(scope="module")
def fitted(s):
    found = {}
    for kind, loss in {"flow": transport.flow_loss, "diffusion": transport.diffusion_loss}.items():
        for told in (True, False):
            cells, model = built(s, kind, told)
            train.fit(model, partial(loss, model), model.design.loader(cells), n=500, lr=5e-3)
            found[kind, told] = model
    return found


def test_a_flow_that_stands_still_leaves_every_cell_where_it_is(s):
    _, model = built(s, "flow")
    for p in model.net.out.parameters():
        p.data.zero_()
    one, counts = model.predict(s.a, "A", seed=4), torch.tensor(s.a.layers["counts"].toarray(), dtype=torch.float32)
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        same = model.coordinates.draw(model.coordinates(counts), counts.sum(1, keepdim=True).log())
    np.testing.assert_array_equal(one.layers["counts"].toarray(), same.numpy())


def test_optimal_transport_deals_the_same_controls_within_each_label(s, monkeypatch):
    _, model = built(s, "flow")
    b, seen = next(iter(model.design.loader(ad.concat([s.a, s.cells])))), {}
    for couple in (True, False):
        monkeypatch.setattr(transport.flow, "loss", lambda velocity, pairs: seen.update({couple: pairs}))  # noqa: B023
        torch.manual_seed(0)
        transport.flow_loss(model, b, couple=couple)
    assert torch.equal(seen[True]["x"], seen[False]["x"]) and len(b["perturbation"].unique()) == 4
    cost = lambda pairs, rows: (pairs["x"][rows] - pairs["x1"][rows]).square().sum().item()
    for label in b["perturbation"].unique():
        rows = b["perturbation"] == label
        dealt, drawn = (seen[couple]["x1"][rows] for couple in (True, False))
        assert torch.equal(dealt[dealt[:, 0].argsort()], drawn[drawn[:, 0].argsort()])
        assert cost(seen[True], rows) < 0.95 * cost(seen[False], rows)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_told_nothing_it_says_the_same_of_all_and_told_it_does_not(s, fitted, kind):
    for told in (True, False):
        one, other = (fitted[kind, told].predict(s.a, name, seed=1).layers["counts"].toarray() for name in ("A", "B"))
        assert (one == other).all() == (not told)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_perturbations_that_were_seen_come_out_with_their_means_and_without_labels_do_not(s, fitted, kind):
    start = profile(s.a)
    for told in (True, False):
        wrong = whole = 0.0
        for name in "ABC":
            true = profile(s.cells[(s.cells.obs["perturbation"] == name).to_numpy()]) - start
            said = profile(fitted[kind, told].predict(s.a, name)) - start
            wrong, whole = wrong + np.square(said - true).sum(), whole + np.square(true).sum()
        assert wrong / whole < 0.15 if told else wrong / whole > 0.4


def test_a_combination_of_seen_parts_is_answered_and_can_be_told_from_its_parts(s, fitted):
    for kind in ("flow", "diffusion"):
        pair, part = (fitted[kind, True].predict(s.a, name).layers["counts"].toarray() for name in ("A+B", "A"))
        assert (pair != part).any() and pair.shape == part.shape


def test_what_a_cell_was_stays_in_the_flow_and_nothing_of_it_in_the_diffusion():
    """A state of its own, which no perturbation touches. In one dimension the flow keeps it under either coupling."""
    random = np.random.default_rng(0)
    state = random.normal(size=600)
    of = np.repeat(["control", "A"], 300)
    rate, way, own = random.normal(size=GENES), 0.6 * random.normal(size=GENES), 0.6 * random.normal(size=GENES)
    share = np.exp(rate + (of == "A")[:, None] * way + state[:, None] * own)
    counts = random.poisson(2000 * share / share.sum(1, keepdims=True))
    obs = pd.DataFrame({"perturbation": of}, [f"c{i}" for i in range(600)])
    cells = ad.AnnData(layers={"counts": sparse.csr_matrix(counts)}, obs=obs)
    cells.var_names = [f"G{i}" for i in range(GENES)]
    control, treated = cells[:300].copy(), cells[300:].copy()
    coordinates = Coordinates(GENES, 5).fit(cells.layers["counts"])
    design = perturb.Design(cells)
    torch.manual_seed(0)
    kept = {}
    for couple in (True, False, None):
        if couple is None:
            model, loss = transport.PerturbDiffusion(design, coordinates, n_hidden=64), transport.diffusion_loss
        else:
            model = transport.PerturbFlow(design, coordinates, control.layers["counts"], n_hidden=64)
            loss = partial(transport.flow_loss, couple=couple)
        train.fit(model, partial(loss, model), design.loader(cells), n=400, lr=5e-3)
        predicted = model.predict(control, "A")
        logs = np.log1p(predicted.layers["counts"].toarray())
        kept[couple] = np.corrcoef(logs @ own, state[:300])[0, 1]
        z, y = (coordinates(c.layers["counts"]).numpy() for c in (predicted, treated))
        start = coordinates(control.layers["counts"]).numpy()
        assert metrics.energy_distance(z, y) < 0.15 * metrics.energy_distance(start, y), couple
    assert min(kept[True], kept[False]) > 0.8 and abs(kept[None]) < 0.2
