"""What a trained model says of cells, where scanpy looks for it."""

from functools import partial

import numpy as np
import pytest
import scanpy as sc
import torch
from torch.distributions import Independent

from lab import data, nets, vae
from lab.errors import Refused


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
    meaning = {"batch": ["batch 1", "batch 2"]}
    vae.annotate(model, samples, "batch", under={"batch": "batch 2"}, categories=meaning, n=1)
    b, as_second = data.minibatch(samples, "batch"), {"batch": torch.ones(120, dtype=torch.long)}
    with torch.no_grad():
        z = model.posterior(b["x"], b).mean  # encoded under its own batch, decoded as of the second
        expected = model.likelihood(z, b | as_second).mean
    np.testing.assert_allclose(samples.obsm["X_vae"], z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        samples.layers["vae_normalized"], 1e4 * expected / expected.sum(-1, keepdim=True), rtol=1e-3
    )
    with pytest.raises(Refused, match="one of: batch 1, batch 2"):
        vae.annotate(model, samples, "batch", under={"batch": "batch 9"}, categories=meaning)
    with pytest.raises(Refused, match="conditioned on nothing"):
        vae.annotate(vae.count_vae(40, 3), samples, "batch", under={"batch": "batch 2"})


def test_a_model_of_the_condition_alone_sees_a_difference_of_batches_until_all_are_decoded_as_one():
    samples = data.bulk(120, 40, n_batches=2, seed=0)
    torch.manual_seed(0)
    model = vae.count_vae(40, 3, conditions={"batch": 2})
    with torch.no_grad():
        model.decoder.net[0].weight[:, :3] = 0  # the decoder reads the condition alone
    meaning = {"batch": ["batch 1", "batch 2"]}
    for under, moved in ((None, True), ({"batch": "batch 2"}, False)):
        vae.differential_expression(model, samples, "batch", groupby="batch", under=under, categories=meaning, n=5)
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


def test_expression_without_a_draw_is_refused(trained):
    with pytest.raises(Refused, match="n=0"):
        vae.annotate(trained[1], trained[0][:5].copy(), n=0)


@pytest.mark.parametrize(
    "conditions, counts",
    [({"batch": 3}, None), ({"batch": 3}, nets.NB(40, by=("batch", 3))), (None, nets.NB(40, by=("batch", 3)))],
)
def test_codes_that_may_not_be_trainings_or_other_genes_are_refused_and_categories_mend_the_first(conditions, counts):
    samples = data.bulk(120, 40, n_batches=3, seed=0)
    torch.manual_seed(0)
    model = vae.count_vae(40, 3, conditions=conditions, counts=counts)
    meaning = data.loader(samples, "batch").dataset.categories
    last = samples[samples.obs["batch"].isin(["batch 2", "batch 3"])].copy()
    last.obs["batch"] = last.obs["batch"].astype(str)
    for wrong, message in ((None, "not their labels"), ({"batch": ["batch 2", "batch 3"]}, "categories name 2")):
        for call in (vae.annotate, partial(vae.differential_expression, groupby="batch")):
            with pytest.raises(Refused, match=f"codes for 3 levels of obs.'batch'., and {message}; pass categories"):
                call(model, last, "batch", categories=wrong)
    vae.annotate(model, last, "batch", categories=meaning)
    b = data.minibatch(last, "batch", categories=meaning)
    assert b["batch"].unique().tolist() == [1, 2]
    with torch.no_grad():
        np.testing.assert_allclose(last.obsm["X_vae"], model.posterior(b["x"], b).mean, rtol=1e-4, atol=1e-5)
    vae.differential_expression(model, last, "batch", groupby="batch", categories=meaning, n=2)
    with pytest.raises(Refused, match="adata has 39 genes and the model was made for 40"):
        vae.annotate(model, samples[:, :39].copy(), "batch")


def test_equal_labels_have_equal_codes_whatever_the_order_of_their_categories():
    samples = data.bulk(60, 20, n_batches=3, seed=0)
    torch.manual_seed(0)
    model, meaning = vae.count_vae(20, 2, 8, conditions={"batch": 3}), data.loader(samples, "batch").dataset.categories
    again = samples.copy()
    again.obs["batch"] = again.obs["batch"].cat.reorder_categories(["batch 3", "batch 2", "batch 1"])
    for cells in (samples, again):
        vae.annotate(model, cells, "batch", categories=meaning)
        torch.manual_seed(0)
        vae.differential_expression(model, cells, "batch", groupby="tissue", categories=meaning, n=3)
    np.testing.assert_array_equal(again.obsm["X_vae"], samples.obsm["X_vae"])
    one, other = (sc.get.rank_genes_groups_df(cells, None) for cells in (samples, again))
    assert one.equals(other)


def test_a_gaussian_model_has_no_proportions():
    cells = data.pbmc()[:20].copy()
    torch.manual_seed(0)
    model = vae.VAE(vae.Encoder(765, 2), vae.GaussianDecoder(torch.nn.Linear(2, 765)), 2)
    with pytest.raises(ValueError, match="count likelihood"):
        vae.annotate(model, cells)
