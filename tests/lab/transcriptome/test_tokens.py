"""Gene tokens: what a locus says, what is said where there is none, and features that perturbed cells cannot reach."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from screens import gene_names, screen
from sklearn.decomposition import PCA

from lab import transcriptome
from lab.errors import Refused
from lab.transcriptome import genes, pathways

SPREAD = np.random.default_rng(0).permutation(40)


def annotation(n=40):
    """Genes 250 kb apart on four chromosomes, in no order."""
    table = pd.DataFrame({"chromosome": [str(1 + i // 10) for i in range(n)], "start": 250_000 * np.arange(n)})
    return table.set_axis(gene_names(n)).iloc[SPREAD[:n]]


def test_a_locus_is_found_by_symbol_or_index_and_what_is_missing_is_said(capsys):
    names = ["G3", "new", "G30", "G7"]
    where = transcriptome.loci(names, annotation())
    assert "1 of 4 genes have no locus (first: new)" in capsys.readouterr().out
    assert list(where.index) == names and where["chromosome"].tolist()[::2] == ["1", "4"]
    assert where["start"].tolist() == [750_000, pytest.approx(np.nan, nan_ok=True), 7_500_000, 1_750_000]
    ensembl = annotation().rename(columns={"chromosome": "chr"}).rename_axis("symbol").reset_index()
    twice = pd.concat([ensembl, ensembl.assign(start=5)])
    twice["chr"] = twice["chr"].astype(float)
    pd.testing.assert_frame_equal(transcriptome.loci(names, twice), where)


def test_half_a_locus_is_none(capsys):
    table = annotation().astype({"start": float})
    table.loc["G1", "start"], table.loc["G2", "chromosome"] = np.nan, None
    where = transcriptome.loci(gene_names(5), table)
    assert "2 of 5 genes" in capsys.readouterr().out and where.isna().all(axis=1).tolist() == [0, 1, 1, 0, 0]


def test_two_genes_waves_know_how_far_apart_they_are_and_nothing_else():
    start = np.array([0.0, 1e5, 3e6, 3.1e6, 9e7])
    waves = genes._placed(pd.DataFrame({"chromosome": "1", "start": start}))[1][:, :24]
    apart = np.subtract.outer(start, start)
    np.testing.assert_allclose(waves @ waves.T, np.cos(2 * np.pi * apart[..., None] / genes.WAVES).sum(-1), atol=1e-9)
    np.testing.assert_allclose(waves[1, [0, 12]], waves[0, [0, 12]], atol=1e-9)  # the shortest is 100 kb


def test_gaps_are_those_to_the_genes_beside_on_the_chromosome():
    where = pd.DataFrame({"chromosome": list("112.2"), "start": [3e5, 1e5, 5e6, np.nan, 5e6 + 1e5 * np.e]})
    where["chromosome"] = where["chromosome"].replace(".", np.nan)
    gaps = genes._placed(where)[1][:, 24:]
    two = np.log(2)
    np.testing.assert_allclose(gaps[[1, 0, 2, 4]], [[3, two], [two, 3], [3, 1], [1, 3]])
    assert np.isfinite(gaps).all()


def test_tokens_follow_the_genome_and_those_without_a_locus_come_last():
    where = transcriptome.loci(["G39", "new", "G0", "G11", "G5"], annotation())
    assert transcriptome.GeneTokens(where).order.tolist() == [2, 4, 3, 0, 1]


def test_genes_without_a_locus_share_one_learned_vector_and_keep_their_own():
    where = transcriptome.loci([*gene_names(20), "new", "newer"], annotation())
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), where.index[2:])
    tokens = transcriptome.GeneTokens(where, features, width=16)
    with torch.no_grad():
        tokens.nowhere.fill_(7), tokens.apart.fill_(-7)
    identity, locus, pathway = tokens().detach().split([8, 4, 4], 1)
    assert (locus[20:] == 7).all() and not (locus[:20] == 7).any()
    assert (pathway[:2] == -7).all() and not (pathway[2:] == -7).any()
    torch.testing.assert_close(identity, tokens.identity.detach())
    tokens().sum().backward()
    assert tokens.nowhere.grad.tolist() == 4 * [2.0] and tokens.apart.grad.tolist() == 4 * [2.0]


def test_what_is_shuffled_is_the_same_rows_of_other_genes():
    where = transcriptome.loci(gene_names(40), annotation())
    other = transcriptome.shuffled(where, 1)
    assert (other.index == where.index).all() and (other["start"] != where["start"]).mean() > 0.9
    assert sorted(map(tuple, other.to_numpy())) == sorted(map(tuple, where.to_numpy()))
    pd.testing.assert_frame_equal(other, transcriptome.shuffled(where, 1))


def test_a_descriptor_is_the_gene_s_own_place_and_says_where_it_has_none():
    where = transcriptome.loci(["G3", "new", "G30"], annotation())
    sets = pd.DataFrame({"set": [1.0, 2.0]}, ["new", "G30"])
    table = transcriptome.gene_descriptors(where, sets)
    assert table["set"].tolist() == [0, 1, 2] and table.shape[1] == 64 + 26 + 1 + 1
    assert table.loc["new"].drop("set").abs().sum() == 12 + 1  # twelve cosines of 0, and "unknown"
    np.testing.assert_allclose(table.drop(columns="set").loc["G3"], table.drop(columns="set").loc["G3"])


def controls_and_others(seed=0):
    s = screen(n=3, cells=20, controls=60, genes=30, seed=seed)
    return ad.concat([s.a, s.b, s.cells])


def test_features_are_made_of_controls_alone():
    cells = controls_and_others()
    one = transcriptome.pathway_features(cells, 4, steps=30)
    other = cells.copy()
    perturbed = (cells.obs["perturbation"] != "control").to_numpy()
    counts = other.layers["counts"].toarray()
    counts[perturbed] = np.random.default_rng(1).poisson(1000, (perturbed.sum(), 30))
    other.layers["counts"] = counts
    pd.testing.assert_frame_equal(transcriptome.pathway_features(other[::-1][::-1], 4, steps=30), one)
    counts[~perturbed] = counts[~perturbed][:, ::-1]
    other.layers["counts"] = counts
    assert np.abs(transcriptome.pathway_features(other, 4, steps=30).to_numpy() - one.to_numpy()).max() > 0.1
    np.testing.assert_allclose([one.mean(), one.std(ddof=0)], [[0] * 5, [1] * 5], atol=1e-5)
    level = pathways.log_expression(cells[~perturbed].copy()).mean(0)
    assert np.corrcoef(one["level"], level)[0, 1] > 0.9999


def test_an_autoencoder_with_a_linear_decoder_comes_near_principal_components_and_not_below():
    cells = controls_and_others()
    cells = cells[cells.obs["perturbation"] == "control"].copy()
    y = pathways.log_expression(cells)
    z = (y - y.mean(0)) / y.std(0)
    pca = PCA(4).fit(z)
    least = np.square(z - pca.inverse_transform(pca.transform(z))).sum(1).mean()
    torch.manual_seed(0)
    model = pathways.Autoencoder(torch.tensor(y.mean(0)), torch.tensor(y.std(0)), 4)
    b = {"x": torch.tensor(cells.layers["counts"].toarray()).float()}
    b["log_library"] = b["x"].sum(1, keepdim=True).log()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        error = model.loss(b)["loss"]
        error.backward()
        optimizer.step()
    assert least <= error.item() < 1.05 * least < 0.9 * 30


BAD = {
    "an annotation without starts": (
        lambda: transcriptome.loci(["a"], pd.DataFrame({"chr": ["1"]}, ["a"])),
        "no column 'start'",
    ),
    "no gene that is annotated": (lambda: transcriptome.loci(["a", "b"], annotation()), "none of the 2 genes"),
    "a gene twice": (lambda: transcriptome.loci(["G1", "G1"], annotation()), "'G1' occurs twice"),
    "a start below 0": (lambda: transcriptome.loci(["G1"], annotation().assign(start=-1)), "'G1' starts at -1"),
    "an endless start": (lambda: transcriptome.loci(["G1"], annotation().assign(start=np.inf)), "starts at inf"),
    "a width that is none": (
        lambda: transcriptome.GeneTokens(transcriptome.loci(["G1"], annotation()), width=10),
        "multiple of 4",
    ),
    "an order with a gene twice": (
        lambda: transcriptome.GeneTokens(transcriptome.loci(["G1", "G2"], annotation()), order=[0, 0]),
        "each number from 0 to 1 once",
    ),
    "loci that are none": (lambda: transcriptome.GeneTokens(pd.DataFrame({"a": [1]})), "as loci"),
    "too many chromosomes": (
        lambda: transcriptome.GeneTokens(pd.DataFrame({"chromosome": map(str, range(65)), "start": 1.0})),
        "65 chromosomes, and 64",
    ),
    "too few controls": (lambda: transcriptome.pathway_features(controls_and_others(), 61), "ask for 122"),
    "no controls": (lambda: transcriptome.pathway_features(controls_and_others(), control="ctrl"), "= 'ctrl'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    call, words = BAD[case]
    with pytest.raises(Refused) as said:
        call()
    assert words in str(said.value) and "\n" not in str(said.value)
