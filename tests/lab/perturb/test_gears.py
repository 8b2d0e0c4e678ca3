"""GEARS: what messages reach, what a graph is worth where it is the right one, and what its ablations leave."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from screens import screen

from lab import perturb, train
from lab.perturb import gears

NAMES = [f"G{i}" for i in range(12)]


def chain(names=NAMES):
    """Each gene beside the next."""
    table = np.eye(len(names), k=1, dtype=int)
    return pd.DataFrame(table + table.T, names, names)


def small(graph, n_layers, total=None):
    s = screen(names=["G0", "G3", "G0+G3"], genes=30, seed=1, effect=0.5)
    if total is not None:
        s.a.obs["n_counts"] = s.cells.obs["n_counts"] = total
    torch.manual_seed(0)
    return s, gears.GEARS(ad.concat([s.a, s.cells]), graph, n_layers=n_layers)


def test_without_layers_there_is_no_graph():
    s, one = small(chain(), 0)
    _, other = small(perturb.rewired(chain()), 0)
    for name in ("G0", "G3", "G7", "G0+G7"):
        torch.testing.assert_close(one(one.row(name)[None]), other(other.row(name)[None]), rtol=0, atol=0)
    _, with_ = small(chain(), 1)
    _, moved = small(perturb.rewired(chain()), 1)
    assert not torch.allclose(with_(with_.row("G7")[None]), moved(moved.row("G7")[None]), atol=1e-3)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_as_many_layers_reach_as_many_edges_far(n_layers):
    _, model = small(chain(), n_layers)
    model(model.row("G6")[None]).square().sum().backward()
    felt = model.vectors.grad.abs().sum(1).numpy() > 0
    np.testing.assert_array_equal(felt, np.abs(np.arange(12) - 6) <= n_layers)


def test_genes_in_another_order_are_the_same_model():
    order = np.random.default_rng(0).permutation(12)
    _, one = small(chain(), 2)
    _, other = small(chain().iloc[order, order], 2)
    other.load_state_dict(one.state_dict() | {k: other.state_dict()[k] for k in ("messages", "of_label")})
    other.vectors.data = one.vectors.data[torch.tensor(order)]
    for name in ("G5", "G0+G11"):
        torch.testing.assert_close(one(one.row(name)[None]), other(other.row(name)[None]))
    torch.testing.assert_close(one.nodes()[torch.tensor(order)], other.nodes())


@pytest.mark.parametrize("total", [None, 9000.0], ids=["their own sums", "a full total"])
def test_controls_are_left_where_they_are_and_the_loss_is_then_their_variance(total):
    s, model = small(chain(), 1, total)
    predicted = model.predict(s.a, "control")
    np.testing.assert_allclose(predicted.X, gears.log_expression(s.a), atol=1e-6)
    b = next(iter(model.design.loader(s.a, size=1000)))
    assert gears.loss(model, b)["loss"].item() == pytest.approx(gears.log_expression(s.a).var(0).sum(), rel=1e-4)


def test_a_rewired_graph_has_every_genes_number_of_neighbours_and_other_neighbours():
    random = np.random.default_rng(0)
    upper = np.triu(random.random((60, 60)) < 0.1, 1).astype(int)
    graph = pd.DataFrame(upper + upper.T, range(60), range(60))
    for seed in range(3):
        other = perturb.rewired(graph, seed=seed)
        np.testing.assert_array_equal(other.sum(), graph.sum())
        assert (other == other.T).all(None) and not np.diag(other).any() and other.isin([0, 1]).all(None)
        assert (other * graph).sum().sum() < 0.25 * graph.sum().sum()


def test_neighbours_by_co_expression_are_of_ones_own_module_and_by_sets_of_ones_own_sets():
    random = np.random.default_rng(0)
    module, state = np.repeat(range(4), 10), random.normal(size=(800, 4))
    sign = random.choice([-1, 1], 40)
    x = random.poisson(20 * np.exp(0.5 * state[:, module] * sign))
    cells = ad.AnnData(layers={"counts": sparse.csr_matrix(x)}, var=pd.DataFrame(index=[f"G{i}" for i in range(40)]))
    cells.obs_names = [f"c{i}" for i in range(800)]
    graph = perturb.coexpression_graph(cells, 5)
    assert (
        graph.to_numpy()[module[:, None] == module].sum() > 0.98 * graph.to_numpy().sum() and (graph.sum() >= 5).all()
    )
    sets = pd.DataFrame(np.eye(4, dtype=int)[module], cells.var_names)
    sets.iloc[0] = 0
    by_sets = perturb.gene_set_graph(sets, 9)
    expected = (module[:, None] == module) & ~np.eye(40, dtype=bool)
    expected[0] = expected[:, 0] = False
    np.testing.assert_array_equal(by_sets.to_numpy(), expected)


@pytest.fixture(scope="module")
def families():
    """Five families of five genes that do the same when perturbed; the last of each is held out."""
    random = np.random.default_rng(1)
    family = {f"T{i}": i // 5 for i in range(25)}
    way, rate = 0.5 * random.normal(size=(5, 60)), random.normal(size=60)
    of = np.repeat(["control", *family], [300] + [40] * 25)
    shift = np.array([0 * rate if name == "control" else way[family[name]] for name in of])
    share = np.exp(rate + shift)
    x = random.poisson(1500 * share / share.sum(1, keepdims=True))
    obs = pd.DataFrame({"perturbation": of}, [f"c{i}" for i in range(len(of))])
    var = pd.DataFrame(index=[f"G{i}" for i in range(60)])
    cells = ad.AnnData(layers={"counts": sparse.csr_matrix(x)}, obs=obs, var=var)
    held = [f"T{i}" for i in range(4, 25, 5)]
    known, test = perturb.hold_out(cells, test=held)
    sets = pd.DataFrame(np.eye(5, dtype=int)[list(family.values())], list(family))
    return known, test, held, perturb.gene_set_graph(sets, 4)


def error(families, graph, n_layers):
    """Squared error of held-out shifts in units of that of no change."""
    known, test, held, _ = families
    torch.manual_seed(0)
    model = gears.GEARS(known, graph, n_layers=n_layers)
    train.fit(model, partial(gears.loss, model), model.design.loader(known), n=250, lr=5e-3)
    start = model.start.numpy()
    shift = {
        name: gears.log_expression(test[(test.obs["perturbation"] == name).to_numpy()]).mean(0) - start for name in held
    }
    control = known[(known.obs["perturbation"] == "control").to_numpy()]
    said = {name: model.predict(control, name).X.mean(0) - start for name in held}
    return sum(np.square(said[n] - shift[n]).sum() for n in held) / sum(np.square(shift[n]).sum() for n in held)


def test_genes_that_nobody_perturbed_are_predicted_over_the_right_graph_and_neither_without_nor_rewired(families):
    graph = families[3]
    right = error(families, graph, 1)
    assert right < 0.3
    assert error(families, graph, 0) > 0.7 and error(families, perturb.rewired(graph), 1) > 0.7
