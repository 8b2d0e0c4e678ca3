"""Differential expression: reads as scanpy's, ranks what is known, calls what differs and little else."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from torch.distributions import Independent

from lab import data, nets, train, vae
from lab.errors import Refused
from lab.vae.differential import bootstrap_weights


def test_differential_expression_reads_as_scanpys_own_and_ranks_known_markers(trained):
    cells, model = trained
    cells = cells.copy()
    torch.manual_seed(0)
    vae.differential_expression(model, cells, groupby="cell_type")
    sc.tl.rank_genes_groups(cells, "cell_type", method="t-test", key_added="scanpy")
    assert set(cells.uns["scanpy"]) <= set(cells.uns["rank_genes_groups"])
    ours, theirs = (sc.get.rank_genes_groups_df(cells, None, key=key) for key in ("rank_genes_groups", "scanpy"))
    assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
    b = sc.get.rank_genes_groups_df(cells, "B")
    assert {"CD79A", "MS4A1"} <= set(b["names"][:15]) and b["scores"].is_monotonic_decreasing
    assert b["scores"].between(-1, 1).all() and (b["pvals_adj"] >= b["pvals"].min()).all()
    both = ours.merge(theirs, on=["group", "names"])
    moved = both[both["pvals_adj_y"] < 1e-10]
    assert (np.sign(moved["logfoldchanges_x"]) == np.sign(moved["scores_y"])).mean() > 0.9
    sc.pl.rank_genes_groups(cells, n_genes=3, show=False)


@pytest.mark.parametrize("units", [3, 4, 12, 200])
def test_a_bootstrapped_mean_varies_by_its_squared_standard_error(units):
    torch.manual_seed(0)
    unit = np.repeat(np.arange(units), np.arange(units) % 3 + 1)  # unequal numbers of cells
    value = np.random.default_rng(0).normal(size=units)
    weight = bootstrap_weights(unit, 40_000).double().numpy()
    np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-5)
    mean = weight @ value[unit]  # every unit counts once
    np.testing.assert_allclose(mean.mean(), value.mean(), atol=5 * mean.std() / 200)
    np.testing.assert_allclose(mean.var(), value.var(ddof=1) / units, rtol=0.06)


def cells_and_their_copier(x, group):
    """Cells with counts x (B, 3), one letter of `group` each, and a VAE whose decoder reads shares off the cell."""

    class Copy(torch.nn.Module):
        def forward(self, z, cond):
            return Independent(torch.distributions.Poisson(cond["x"] + 0 * z.sum(-1, keepdim=True)), 1)

    cells = sc.AnnData(x.numpy(), layers={"counts": x.numpy()})
    cells.obs["group"] = list(group)
    return cells, vae.VAE(vae.Encoder(3, 2), Copy(), 2)


def test_log_fold_changes_are_those_of_known_proportions():
    """The answer is the log ratio of group means."""
    x = torch.tensor(3 * [[30.0, 10, 60]] + 3 * [[10.0, 30, 60]])
    cells, model = cells_and_their_copier(x, "aaabbb")
    vae.differential_expression(model, cells, groupby="group", pseudocount=0.0, n=5)
    found = sc.get.rank_genes_groups_df(cells, "a").set_index("names")
    np.testing.assert_allclose(found.loc[["0", "1", "2"], "logfoldchanges"], [np.log2(3), -np.log2(3), 0], atol=1e-6)
    np.testing.assert_allclose(found.loc[["0", "1", "2"], "scores"], [1, -1, 0])
    np.testing.assert_allclose(found.loc[["0", "1", "2"], "pvals_adj"], [0, 0, 1 / 3])
    assert list(found.index) == ["0", "2", "1"]


def test_the_rest_is_every_other_cell_and_not_the_mean_of_the_other_groups():
    """Groups of 3, 4 and 12 cells, proportions known and equal within a group: the log ratio to the pooled rest."""
    x = torch.tensor(3 * [[30.0, 10, 60]] + 4 * [[10.0, 30, 60]] + 12 * [[20.0, 60, 20]])
    cells, model = cells_and_their_copier(x, "aaabbbbcccccccccccc")
    vae.differential_expression(model, cells, groupby="group", pseudocount=0.0, n=5)
    found = sc.get.rank_genes_groups_df(cells, None).set_index(["group", "names"])["logfoldchanges"]
    for group, rows in cells.obs.groupby("group").indices.items():
        expected = np.log2(x[rows].mean(0) / np.delete(x.numpy(), rows, 0).mean(0))
        np.testing.assert_allclose(found[group].loc[["0", "1", "2"]], expected, atol=1e-5)


def test_a_named_reference_is_that_group_alone_whatever_other_groups_there_are():
    x = torch.tensor(3 * [[30.0, 10, 60]] + 4 * [[10.0, 30, 60]] + 12 * [[20.0, 60, 20]])
    cells, model = cells_and_their_copier(x, "aaabbbbcccccccccccc")
    vae.differential_expression(model, cells, groupby="group", reference="b", pseudocount=0.0, n=5)
    found = sc.get.rank_genes_groups_df(cells, None).set_index(["group", "names"])["logfoldchanges"]
    np.testing.assert_allclose(found["a"].loc[["0", "1", "2"]], np.log2([3, 1 / 3, 1]), atol=1e-5)
    np.testing.assert_allclose(found["c"].loc[["0", "1", "2"]], np.log2([2, 2, 1 / 3]), atol=1e-5)


def test_five_cells_beside_three_hundred_thousand_keep_their_fold_change():
    """The rest is a difference of sums, which single precision would lose."""
    x = torch.tensor([[97.0, 1, 2]]).repeat(300_005, 1)
    x[-5:] = torch.tensor([1.0, 97, 2])
    cells, model = cells_and_their_copier(x, 300_000 * "a" + 5 * "b")
    vae.differential_expression(model, cells, groupby="group", pseudocount=0.0, n=1)
    found = sc.get.rank_genes_groups_df(cells, "a").set_index("names")["logfoldchanges"]
    np.testing.assert_allclose(found.loc[["0", "1", "2"]], [np.log2(97), -np.log2(97), 0], atol=1e-4)


def test_groups_come_in_the_columns_own_order_as_scanpys_do():
    x = torch.tensor(3 * [[30.0, 10, 60]] + 4 * [[10.0, 30, 60]])
    cells, model = cells_and_their_copier(x, "aaabbbb")
    cells.obs["group"] = pd.Categorical(cells.obs["group"], ["b", "never", "a"])
    vae.differential_expression(model, cells, groupby="group", n=2)
    assert cells.uns["rank_genes_groups"]["names"].dtype.names == ("b", "a")
    cells.obs["cluster"] = [10, 10, 10, 2, 2, 2, 2]
    vae.differential_expression(model, cells, groupby="cluster", reference=2, n=2)
    assert cells.uns["rank_genes_groups"]["names"].dtype.names == ("10",)


def test_random_halves_of_one_cell_type_differ_in_almost_no_gene(trained):
    cells, model = trained
    called = []
    torch.manual_seed(0)
    for cell_type in ("CD14 monocyte", "dendritic", "B"):
        for seed in range(4):
            same = cells[cells.obs.cell_type == cell_type].copy()
            same.obs["half"] = (np.random.default_rng(seed).permutation(same.n_obs) % 2).astype(str)
            vae.differential_expression(model, same, groupby="half", reference="0", n=60)
            called.append((sc.get.rank_genes_groups_df(same, "1")["pvals_adj"] < 0.05).sum())
    assert np.mean(called) < 8  # of 765


@pytest.mark.parametrize("seed", range(2))
def test_bootstrap_over_donors_calls_far_fewer_genes_where_only_donors_differ(seed):
    study = data.bulk(480, 100, n_tissues=1, n_diseases=1, n_batches=12, batch_std=0.5, depth=2000, seed=seed)
    study.obs["arm"] = np.where(study.obs["batch"].cat.codes < 6, "treated", "control")
    torch.manual_seed(seed)
    model = vae.count_vae(100, counts=nets.NB(100, theta=4.0))
    for _ in train.steps(model, lambda b: vae.loss(model, b), data.loader(study), n=200, lr=1e-2):
        pass
    called = []
    for replicate in (None, "batch"):
        vae.differential_expression(model, study, groupby="arm", reference="control", replicate=replicate, delta=0.25)
        called.append((sc.get.rank_genes_groups_df(study, "treated")["pvals_adj"] < 0.05).sum())
    assert called[0] > 10 and called[1] < 0.4 * called[0]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"groupby": "absent"}, "must name a group for every cell"),
        ({"groupby": "cell_type", "reference": "neuron"}, "a reference"),
        ({"groupby": "one"}, "needs two"),
        ({"groupby": "cell_type", "replicate": "one"}, "fewer than three of one"),
        ({"groupby": "cell_type", "replicate": "absent"}, "must name a group for every cell"),
        ({"groupby": "cell_type", "under": {"batch": "a"}}, "no level that the model knows"),
        ({"groupby": "cell_type", "replicate": "two"}, "fewer than three of two"),
        ({"groupby": "rest"}, "has a level 'rest'"),
        ({"groupby": "cell_type", "n": 0}, "one draw or more"),
        ({"groupby": "cell_type", "delta": -0.5}, "thresholds from 0 up"),
        ({"groupby": "cell_type", "delta": float("nan")}, "thresholds from 0 up"),
        ({"groupby": "cell_type", "pseudocount": -5}, "thresholds from 0 up"),
        ({"groupby": "cell_type", "layer": "logged"}, "raw integer counts"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(trained, change, says):
    cells, model = trained
    cells = cells[:60].copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].isin(["B"]).map({True: "B", False: "other"})
    cells.obs["one"], cells.obs["two"] = "same", np.arange(60) % 2
    cells.obs["rest"] = cells.obs["cell_type"].replace("other", "rest")
    cells.layers["logged"] = cells.X
    with pytest.raises(Refused, match=says):
        vae.differential_expression(model, cells, **change)
    assert "rank_genes_groups" not in cells.uns
