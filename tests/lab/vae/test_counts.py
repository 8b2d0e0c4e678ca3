"""The parts of the count VAE against scvi-tools, closed forms and simulations; its results in scanpy's format."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch.distributions import Independent, NegativeBinomial

from lab import data, nets, train, vae
from lab.dist import ZeroInflated, negative_binomial
from lab.errors import Refused
from lab.nets import MaskedLinear
from lab.vae.differential import bootstrap_weights


@pytest.fixture(scope="module")
def trained():
    cells = data.pbmc()
    torch.manual_seed(0)
    model = vae.count_vae(cells.n_vars, counts=nets.NB(cells.n_vars, theta=4.0))
    for _ in train.steps(model, lambda b: vae.loss(model, b), data.loader(cells), n=150, lr=5e-3):
        pass
    return cells, model


# Likelihoods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, ("batch", 3)])
def test_the_decoder_is_torchs_negative_binomial_around_library_times_softmax(by):
    torch.manual_seed(0)
    counts = nets.NB(20, by=by)
    torch.nn.init.normal_(counts.log_theta)
    model = vae.count_vae(20, 4, counts=counts)
    z, x = torch.randn(6, 4), torch.poisson(3 * torch.rand(6, 20)) + 1
    b = {"log_library": x.sum(-1, keepdim=True).log(), "batch": torch.tensor([0, 1, 2, 2, 1, 0])}
    theta = counts.log_theta.exp() if by is None else torch.stack([counts.log_theta[i].exp() for i in b["batch"]])
    mean = x.sum(-1, keepdim=True) * model.decoder.net(z).softmax(-1)
    reference = Independent(NegativeBinomial(theta, logits=mean.log() - theta.log()), 1)
    torch.testing.assert_close(model.likelihood(z, b).log_prob(x), reference.log_prob(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_gates_gradient_is_pi_times_the_relative_excess_of_zeros(seed):
    """d E[log ZINB] / d logit = pi (observed - predicted zeros) / predicted zeros."""
    random = np.random.default_rng(seed)
    mean, theta, logit = torch.tensor(random.uniform(0.3, 6, 3), dtype=torch.float64).unbind()
    base = negative_binomial(mean, theta)
    gate = (logit - 3).requires_grad_()
    k = torch.arange(4000.0).double()
    for extra in (0.0, 0.4):  # the law of the data: the same NB with this gate
        truth = (1 - extra) * base.log_prob(k).exp() + extra * (k == 0)
        (ZeroInflated(base, gate).log_prob(k) * truth).sum().backward()
        pi = gate.detach().sigmoid()
        predicted = pi + (1 - pi) * base.log_prob(k[0]).exp()
        torch.testing.assert_close(gate.grad, pi * (truth[0] - predicted) / predicted)
        assert (gate.grad > 0) == (extra > pi)
        gate.grad = None


def test_thinned_negative_binomial_counts_keep_theta():
    mean, theta, p, n = 5.0, 0.6, 0.3, np.arange(1500)
    full = negative_binomial(torch.tensor(mean).double(), torch.tensor(theta).double())
    thinned = stats.binom.pmf(np.arange(20)[:, None], n, p) @ full.log_prob(torch.tensor(n).double()).exp().numpy()
    again = negative_binomial(torch.tensor(p * mean).double(), torch.tensor(theta).double())
    np.testing.assert_allclose(thinned, again.log_prob(torch.arange(20.0).double()).exp(), rtol=1e-8)


def test_a_learned_library_scales_the_mean_and_ignores_the_cells_own_total():
    torch.manual_seed(0)
    inner = vae.count_vae(7, 3).decoder
    decoder, z = vae.LearnedLibrary(inner, mean=6.0, std=0.5), torch.randn(4, 4)
    mean = decoder(z, {"log_library": torch.zeros(4, 1)}).mean
    torch.testing.assert_close(mean.sum(-1), (6 + 0.5 * z[:, -1]).exp())
    torch.testing.assert_close(mean, decoder(z).mean)


@pytest.mark.parametrize("seed", range(2))
def test_dispersion_per_batch_finds_the_noisier_batch(seed):
    random, n, genes = np.random.default_rng(seed), 400, 60
    batch = torch.tensor(random.integers(2, size=n))
    share = random.dirichlet(np.ones(genes) * 5)
    theta = np.where(batch[:, None] == 0, 10.0, 1.0)
    x = torch.tensor(random.poisson(random.gamma(theta, 40 * genes * share / theta)), dtype=torch.float32)
    b = {"x": x, "batch": batch, "log_library": x.sum(-1, keepdim=True).log()}
    torch.manual_seed(seed)
    model = vae.count_vae(genes, 2, counts=nets.NB(genes, by=("batch", 2), theta=3.0))
    for _ in train.steps(model, lambda b: vae.loss(model, b), [b], n=300, lr=1e-2):
        pass
    found = model.decoder.counts.log_theta.exp().median(1).values
    assert found[0] > 3 * found[1] and 0.6 < found[1] < 1.6


@pytest.mark.real
def test_chapter_3_takes_one_lane_from_another_and_keeps_kangs_cell_types(from_page):
    """The chapter's own measure. The subset does not say whose a cell was: its two lanes, control and stimulated, stand
    in for batches."""
    chapter = from_page(
        "book/latent/03-vae-for-counts.md", "trained", "probe", "centred_pca", "embedded", "batch_correction"
    )
    found = chapter["batch_correction"](data.prepare(data.kang(), 500), by="perturbation", label="cell_type", n=150)
    blind, given = found.loc["blind"], found.loc["given"]
    assert blind["batch"] > 0.9 and given["batch"] < blind["batch"] - 0.1
    assert given["own-batch neighbours"] < blind["own-batch neighbours"] - 0.1
    assert given["label"] > blind["label"] - 0.05


@pytest.mark.real
def test_the_programme_that_interferon_moves_most_is_the_interferon_response():
    """Kang's cells, never told which were stimulated, in a model whose coordinates are the Hallmark sets: the
    coordinate that tells them apart best is the right one of 33, and tells almost all."""
    cells = data.prepare(data.kang(), 1000)
    mask = data.programmes(
        cells.var_names, Path(os.environ["LAB_DATA"]) / "gene_sets/human_hallmark_v2025.gmt", min_genes=10
    )
    n_genes, n_programmes = mask.shape
    torch.manual_seed(0)
    decoder = nets.CountDecoder(MaskedLinear(mask.to_numpy(), nonnegative=True), nets.NB(n_genes, theta=4.0))
    model = vae.VAE(vae.Encoder(n_genes, n_programmes, transform=nets.Log1pRelative()), decoder, n_programmes)
    for _ in train.steps(model, lambda b: vae.loss(model, b), data.loader(cells), n=300, lr=4e-3):
        pass
    vae.annotate(model, cells, n=1)
    auc = pd.Series(
        [roc_auc_score(cells.obs["perturbation"] != "control", z) for z in cells.obsm["X_vae"].T], mask.columns
    )
    assert (auc - 0.5).abs().idxmax() == "HALLMARK_INTERFERON_ALPHA_RESPONSE" and auc.max() > 0.95


# Results -------------------------------------------------------------------------------------------------------------


def test_annotate_writes_posterior_means_and_proportions_where_scanpy_looks(trained):
    cells, model = trained
    cells = cells[:300].copy()
    torch.manual_seed(0)
    vae.annotate(model, cells, n=40)
    b = data.minibatch(cells)
    with torch.no_grad():
        np.testing.assert_allclose(cells.obsm["X_vae"], model.posterior(b["x"]).mean, rtol=1e-5, atol=1e-5)
        z = model.posterior(b["x"]).sample((200,))
        rho = 1e4 * model.decoder.net(z).softmax(-1).mean(0)
    np.testing.assert_allclose(cells.layers["vae_normalized"].sum(1), 1e4, rtol=1e-4)
    assert np.corrcoef(cells.layers["vae_normalized"].ravel(), rho.ravel())[0, 1] > 0.999
    sc.pp.neighbors(cells, use_rep="X_vae")  # scanpy takes it


def test_under_decodes_every_cell_as_of_one_batch():
    samples = data.bulk(120, 40, n_batches=2, seed=0)
    torch.manual_seed(0)
    model = vae.count_vae(40, 3, conditions={"batch": 2})
    with torch.no_grad():  # a posterior without spread: nothing left to chance
        model.encoder.net[-1].weight[3:] = 0
        model.encoder.net[-1].bias[3:] = -20
    vae.annotate(model, samples, "batch", under={"batch": "batch 2"}, n=1)
    b, as_second = data.minibatch(samples, "batch"), {"batch": torch.ones(120, dtype=torch.long)}
    with torch.no_grad():
        z = model.posterior(b["x"], b).mean  # encoded under its own batch, decoded as of the second
        expected = model.likelihood(z, b | as_second).mean
    np.testing.assert_allclose(samples.obsm["X_vae"], z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        samples.layers["vae_normalized"], 1e4 * expected / expected.sum(-1, keepdim=True), rtol=1e-3
    )
    with pytest.raises(Refused, match="one of: batch 1, batch 2"):
        vae.annotate(model, samples, "batch", under={"batch": "batch 9"})
    with pytest.raises(Refused, match="conditioned on nothing"):
        vae.annotate(vae.count_vae(40, 3), samples, "batch", under={"batch": "batch 2"})


def test_a_model_of_the_condition_alone_sees_a_difference_of_batches_until_all_are_decoded_as_one():
    samples = data.bulk(120, 40, n_batches=2, seed=0)
    torch.manual_seed(0)
    model = vae.count_vae(40, 3, conditions={"batch": 2})
    with torch.no_grad():
        model.decoder.net[0].weight[:, :3] = 0  # the decoder reads the condition alone
    for under, moved in ((None, True), ({"batch": "batch 2"}, False)):
        vae.differential_expression(model, samples, "batch", groupby="batch", under=under, n=5)
        found = sc.get.rank_genes_groups_df(samples, "batch 1")["logfoldchanges"]
        assert (found.abs().max() > 1e-3) == moved


def test_normalised_expression_is_a_mean_over_draws_and_not_the_means_own():
    """One gene of two, mean share E[1 / (1 + e^z)] with z ~ N(1, 2^2), far from the value at the mean of z."""

    class Share(torch.nn.Module):
        def forward(self, z, cond):
            return Independent(torch.distributions.Poisson(torch.cat([1 + 0 * z, z.exp()], -1)), 1)

    class Wide(torch.nn.Module):
        def forward(self, x, cond=None):
            return torch.tensor([1.0, np.log(2.0)]).expand(len(x), 2)

    cells = sc.AnnData(np.ones((500, 2), np.float32), layers={"counts": np.ones((500, 2), np.float32)})
    torch.manual_seed(0)
    vae.annotate(vae.VAE(Wide(), Share(), 1), cells, n=20)
    exact = torch.sigmoid(-(1 + 2 * torch.randn(10**6))).mean().item()
    assert cells.layers["vae_normalized"][:, 0].mean() == pytest.approx(1e4 * exact, rel=0.03)
    assert exact > 1.2 / (1 + np.e)


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
    """Cells with counts x (B, 3), one letter of `group` each, and a VAE whose decoder reads proportions off the cell."""

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


def test_expression_without_a_draw_is_refused(trained):
    with pytest.raises(Refused, match="n=0"):
        vae.annotate(trained[1], trained[0][:5].copy(), n=0)


@pytest.mark.parametrize(
    "conditions, counts",
    [({"batch": 3}, None), ({"batch": 3}, nets.NB(40, by=("batch", 3))), (None, nets.NB(40, by=("batch", 3)))],
)
def test_levels_or_genes_of_other_number_than_the_models_are_refused_and_training_codes_mend_the_first(
    conditions, counts
):
    samples = data.bulk(120, 40, n_batches=3, seed=0)
    torch.manual_seed(0)
    model = vae.count_vae(40, 3, conditions=conditions, counts=counts)
    meaning = data.loader(samples, "batch").dataset.categories
    last = samples[samples.obs["batch"].isin(["batch 2", "batch 3"])].copy()
    last.obs["batch"] = last.obs["batch"].astype(str)
    with pytest.raises(Refused, match="2 levels here and 3 in the model; pass categories"):
        vae.annotate(model, last, "batch")
    vae.annotate(model, last, "batch", categories=meaning)
    b = data.minibatch(last, "batch", categories=meaning)
    assert b["batch"].unique().tolist() == [1, 2]
    with torch.no_grad():
        np.testing.assert_allclose(last.obsm["X_vae"], model.posterior(b["x"], b).mean, rtol=1e-4, atol=1e-5)
    vae.differential_expression(model, last, "batch", groupby="batch", categories=meaning, n=2)
    with pytest.raises(Refused, match="adata has 39 genes and the model was made for 40"):
        vae.annotate(model, samples[:, :39].copy(), "batch")


def test_a_gaussian_model_has_no_proportions():
    cells = data.pbmc()[:20].copy()
    torch.manual_seed(0)
    model = vae.VAE(vae.Encoder(765, 2), vae.GaussianDecoder(torch.nn.Linear(2, 765)), 2)
    with pytest.raises(ValueError, match="count likelihood"):
        vae.annotate(model, cells)


# scvi-tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(3))
def test_count_likelihoods_are_those_of_scvi_tools(seed):
    peer = pytest.importorskip("scvi.distributions")
    torch.manual_seed(seed)
    mean, theta, logits = (2 * torch.randn(50, 30)).exp().double(), torch.randn(30).exp().double(), torch.randn(50, 30)
    x = torch.poisson(mean * torch.distributions.Gamma(1.0, 1.0).sample(mean.shape))
    close = lambda ours, theirs: torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5, atol=1e-6)
    close(negative_binomial(mean, theta), peer.NegativeBinomial(mu=mean, theta=theta))
    close(
        ZeroInflated(negative_binomial(mean, theta), logits.double()),
        peer.ZeroInflatedNegativeBinomial(mu=mean, theta=theta, zi_logits=logits.double()),
    )
    close(nets.Poisson()(mean, None, None), peer.Poisson(rate=mean))


@pytest.mark.peer
def test_scvi_tools_own_decoder_has_the_same_held_out_likelihood_under_our_distributions():
    scvi = pytest.importorskip("scvi")
    from scvi import REGISTRY_KEYS

    cells = data.pbmc()
    fitting, held_out = data.split(cells, (0.8, 0.2), stratify="cell_type")
    scvi.settings.seed = 0
    for likelihood in ("nb", "zinb", "poisson"):
        scvi.model.SCVI.setup_anndata(fitting, layer="counts")
        model = scvi.model.SCVI(fitting, n_layers=1, gene_likelihood=likelihood)
        model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False, logger=False)
        module, adata = model.module.eval(), model._validate_anndata(held_out.copy())
        for tensors in model._make_data_loader(adata=adata, batch_size=200):
            with torch.no_grad():
                inference, generative, losses = module(tensors)
            x, law = tensors[REGISTRY_KEYS.X_KEY], generative["px"]
            ours = (
                torch.distributions.Poisson(law.rate)
                if likelihood == "poisson"
                else negative_binomial(law.mu, law.theta)
            )
            if likelihood == "zinb":
                ours = ZeroInflated(ours, law.zi_logits)
            reconstruction = losses.reconstruction_loss
            reconstruction = (
                reconstruction["reconstruction_loss"] if isinstance(reconstruction, dict) else reconstruction
            )
            torch.testing.assert_close(Independent(ours, 1).log_prob(x), -reconstruction, rtol=1e-4, atol=1e-2)
