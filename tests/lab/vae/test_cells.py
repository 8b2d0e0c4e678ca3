"""The parts of the count VAE against scvi-tools, closed forms, simulations and real cells."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.distributions import Independent, NegativeBinomial

from lab import data, nets, train, vae
from lab.dist import ZeroInflated, negative_binomial
from lab.nets import MaskedLinear


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


@pytest.fixture
def batch_correction(from_page):
    """Chapter 3's own measure, on any cells with a batch and a label."""
    parts = ("trained", "probe", "components", "combat", "told", "without_network", "batch_correction")
    return from_page("book/latent/03-vae-for-counts.md", *parts)["batch_correction"]


@pytest.mark.real
def test_chapter_3_takes_one_lane_from_another_and_keeps_kangs_cell_types(batch_correction):
    """The subset does not say whose a cell was: its two lanes, control and stimulated, stand in for batches. What it
    leaves has fewer neighbours of a cell's own lane than any row without a network, of which ComBat's is the best."""
    found = batch_correction(data.prepare(data.kang(), 500), "perturbation", "cell_type")
    own, label = found["own-batch neighbours"], found["label"]
    assert own["PCA"] > 0.97 and 0.76 < own["centred"] < 0.88 and 0.64 < own["ComBat, transductive"] < 0.76
    assert 0.5 < own["VAE"] < 0.62 and 0.45 < found["batch"]["VAE"] < 0.65
    assert label["PCA"] > 0.8 and label["VAE"] > label["PCA"] - 0.06


@pytest.mark.real
def test_three_replicates_of_a_screen_are_corrected_by_centring_as_well_as_by_a_vae(batch_correction):
    """Papalexi's THP-1 cells, controls and four knocked-out genes of the interferon pathway: every correction leaves
    what chance would, and what was knocked out can be read as well as before."""
    cells = data.papalexi(["IFNGR1", "IFNGR2", "JAK2", "STAT1"])
    cells = cells[cells.obs["confident"]].copy()
    cells.obs["pathway"] = pd.Categorical(np.where(cells.obs["control"], "there", "lost"))
    found = batch_correction(cells, "batch", "pathway")
    own = found["own-batch neighbours"].drop("chance")
    assert 0.38 < own["PCA"] < 0.44 and own.drop("PCA").between(0.33, 0.37).all()
    assert found["label"].drop("chance").between(0.8, 0.88).all()


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
