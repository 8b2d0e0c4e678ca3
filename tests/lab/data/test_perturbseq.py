"""The Perturb-seq simulator: its truth is what its counts follow, and its knobs do what they say."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lab import data
from lab.data.screen import law
from lab.errors import Refused


@pytest.fixture(scope="module")
def screen():
    return data.perturbseq()


def digest(cells):
    counts = cells.layers["counts"]
    parts = counts.data, counts.indices, counts.indptr, cells.obs["perturbation"].cat.codes.to_numpy()
    return hashlib.sha256(b"".join(np.ascontiguousarray(part, np.int64).tobytes() for part in parts)).hexdigest()


def tables(cells):
    return cells.uns["perturbseq"]


def strong(cells):
    """The targets, the strongest first."""
    return list(tables(cells)["singles"]["strength"].sort_values(ascending=False).index)


def test_the_set_has_the_fields_schema_and_labels_that_agree(screen):
    obs = screen.obs
    data.check_counts(screen)
    assert {"perturbation", "dose", "control", "nperts", "batch", "guide", "phase", "n_counts"} <= set(obs)
    assert (obs["control"] == (obs["perturbation"] == "control")).all() and (obs["dose"] == (obs["nperts"] > 0)).all()
    named = obs["perturbation"].astype(str).where(~obs["control"], "")
    assert (obs["nperts"] == named.str.split("+").map(lambda parts: len(list(filter(None, parts))))).all()
    assert (obs["guide"].astype(str).str.rsplit("_", n=1).str[0] == named.replace("", "non-targeting")).all()
    assert set(tables(screen)["singles"].index) <= set(screen.var_names)
    assert {"chromosome", "start"} <= set(screen.var) and screen.varm["module"].shape == (300, 8)


@pytest.mark.parametrize("preset, shape, conditions", [("tiny", (2000, 300), 15), ("small", (10_000, 1000), 51)])
def test_a_preset_has_its_size_and_every_condition_has_cells(preset, shape, conditions):
    cells = data.perturbseq(preset)
    counts = cells.obs["perturbation"].value_counts()
    assert cells.shape == shape and len(counts) == conditions and counts.min() >= 10
    assert cells.layers["counts"].dtype == np.int32 and cells.X.dtype == np.float32


def test_counts_are_negative_binomial_around_the_mean_that_counterfactual_gives(screen):
    mean, theta = data.counterfactual(screen), screen.var["theta"].to_numpy()
    counts, random = screen.layers["counts"].toarray(), np.random.default_rng(0)
    distribution = stats.nbinom(theta, theta / (theta + mean))
    u = distribution.cdf(counts - 1) + random.random(counts.shape) * distribution.pmf(counts)
    assert stats.kstest(u.ravel(), "uniform").statistic < 1.63 / np.sqrt(u.size)  # 1 % critical value
    assert stats.kstest(stats.poisson(mean).cdf(counts).ravel(), "uniform").statistic > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_noise_free_profile_is_the_mean_of_many_cells(seed):
    many = data.perturbseq(n_genes=60, n_cells=20_000, n_targets=4, n_doubles=1, mix=(0, 0, 1), fitness=0.2, seed=seed)
    per_cell = many.layers["counts"].toarray() / (data.counterfactual(many).sum(1)[:, None] / 1e4)
    worst = []
    for label in many.obs["perturbation"].cat.categories[1:]:
        truth = data.truth(many, label)
        for column, rows in (("control", many.obs["control"]), ("perturbed", many.obs["perturbation"] == label)):
            x = per_cell[rows.to_numpy()]
            worst.append(np.abs(x.mean(0) - truth[column]) / (x.std(0) / np.sqrt(len(x))))
    assert np.max(worst) < 4.5 and np.mean(np.array(worst) > 2) < 0.08  # 600 comparisons, of which 1 in 20 exceeds 2


def test_a_pair_of_counterfactuals_differs_by_what_the_perturbation_does(screen):
    target, tables_ = strong(screen)[0], tables(screen)
    cells = screen[screen.obs["escaped"].to_numpy() == 0].copy()
    log_ratio = np.log(data.counterfactual(cells, target)) - np.log(data.counterfactual(cells, "control"))
    slot = cells.obs["guide"].astype(str).str[-1].astype(int).to_numpy() - 1
    e = tables_["guides"].loc[target].to_numpy()[slot]
    still = (
        (screen.varm["cycle"] == 0).all(axis=1).to_numpy()
    )  # an arrest moves the other genes, each cell by its place
    known = np.outer(e, screen.varm["shift"][target]) + screen.var["systematic"].to_numpy()
    known += np.outer(np.log1p(e * (tables_["singles"].loc[target, "fold"] - 1)), screen.varm["local"][target])
    difference = (log_ratio - known)[:, still]
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-9)  # but for the constant of each softmax
    back = cells.obs["perturbation"].astype(str).to_numpy() == target
    np.testing.assert_array_equal(data.counterfactual(cells, target)[back], data.counterfactual(cells)[back])


def test_escaped_cells_and_duds_of_efficiency_zero_differ_from_controls_by_the_systematic_part_alone(screen):
    cells = screen[screen.obs["escaped"].to_numpy()].copy()
    log_ratio = np.log(data.counterfactual(cells, strong(screen)[0]) / data.counterfactual(cells, "control"))
    difference = log_ratio - screen.var["systematic"].to_numpy()
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-9)


def test_without_effect_and_systematic_shift_the_labels_mean_nothing():
    cells = data.perturbseq(n_cells=20_000, effect=0, systematic=0)
    some = cells[:300].copy()
    for label in (
        strong(cells)[0],
        tables(cells)["doubles"].index[0],
    ):  # in law: every mean is the control's, to the bit
        np.testing.assert_array_equal(data.counterfactual(some, label), data.counterfactual(some, "control"))
    control, total = cells.obs["control"].to_numpy(), np.asarray(cells.layers["counts"].sum(1)).ravel()
    for value in (
        total,
        cells.layers["counts"].getnnz(1),
        cells.obs["cycle"],
        cells.obs["size"],
        cells.obsm["state"][:, 0],
    ):
        assert stats.ks_2samp(np.asarray(value)[control], np.asarray(value)[~control]).pvalue > 1e-3
    for column in ("batch", "phase", "escaped"):
        assert stats.chi2_contingency(pd.crosstab(cells.obs[column], control)).pvalue > 1e-3
    x = cells.X.toarray()
    t = stats.ttest_ind(x[control], x[~control], equal_var=False).pvalue
    assert stats.kstest(t[np.isfinite(t)], "uniform").pvalue > 1e-3
    told = data.perturbseq(n_cells=20_000)  # and with them they do: the same tests see it
    told_t = stats.ttest_ind(
        *(told.X.toarray()[told.obs["control"].to_numpy() == side] for side in (True, False))
    ).pvalue
    assert stats.kstest(told_t[np.isfinite(told_t)], "uniform").pvalue < 1e-6


def test_a_regression_on_the_singles_recovers_a_doubles_coefficients():
    cells = data.perturbseq(
        "small", n_genes=200, n_cells=600, systematic=0, arrest=0, epistasis=0, escape=0, effect=0.3
    )
    guides = tables(cells)["guides"]
    guides[:] = 0.9  # one exposure for all, so that shifts add in the logarithm
    found, known = [], tables(cells)["doubles"]
    profile = lambda label: np.log(data.truth(cells, label)).diff(axis=1)["perturbed"].to_numpy()
    keep = (cells.varm["local"] == 0).all(axis=1).to_numpy()
    for name, row in known.iterrows():
        singles = np.stack([profile(row["first"]), profile(row["second"]), np.ones(cells.n_vars)], 1)
        found.append(np.linalg.lstsq(singles[keep], profile(name)[keep], rcond=None)[0][:2])
    np.testing.assert_allclose(found, known[["c1", "c2"]], atol=0.02)


def regressed(seed):
    """For each of 60 doubles its two coefficients on its singles (D, 2) and its correlation with their sum (D,), from
    noise-free profiles in log1p(CP10k), as Norman et al. fitted theirs."""
    cells = data.perturbseq("medium", n_genes=400, n_cells=1410, seed=seed)
    known, doubles = law.parameters(cells), tables(cells)["doubles"]
    obs, state = (part[:256] for part in law.population(known))
    mean = lambda label: np.log1p(1e4 * law.rates(known, [label] * 256, obs, state)[0].mean(0))
    keep, profile = ~cells.var_names.isin(tables(cells)["singles"].index), {}
    for label in {*doubles.index, *doubles["first"], *doubles["second"]}:
        profile[label] = (mean(label) - mean("control"))[keep]
    pairs = [
        np.stack([profile[first], profile[second]], 1) for first, second in zip(doubles["first"], doubles["second"])
    ]
    fits = [np.linalg.lstsq(pair, profile[name], rcond=None)[0] for name, pair in zip(doubles.index, pairs)]
    return fits, [np.corrcoef(pair.sum(1), profile[name])[0, 1] for name, pair in zip(doubles.index, pairs)]


def test_doubles_of_the_default_are_sub_additive_as_normans_are():
    fits, sums = (np.concatenate(parts) for parts in zip(*map(regressed, range(3))))
    c1, c2 = np.median(fits, axis=0)  # Norman 2019, regr_fits_final.csv: .74, .69; 44 % have one below .5; r .85
    assert abs(c1 - 0.74) < 0.1 and abs(c2 - 0.69) < 0.1
    assert 0.34 < (fits < 0.5).any(1).mean() < 0.54
    assert 0.77 < np.median(sums) < 0.93


def test_knock_down_has_the_quantiles_of_real_guides():
    cells = data.perturbseq(n_genes=1500, n_cells=6000, n_targets=400, n_doubles=0, escape=0)
    left = 1 - 0.99 * tables(cells)["guides"].to_numpy()
    quantiles = np.quantile(left, (0.05, 0.25, 0.5, 0.75, 0.95))
    np.testing.assert_allclose(quantiles, (0.01, 0.11, 0.20, 0.60, 0.95), atol=0.1)  # TAP-seq, 51 guides
    assert 0.15 < (left > 0.5).mean() < 0.3


@pytest.mark.parametrize("screen_, low, high", [("interference", 0, 0.7), ("activation", 2, 9), ("knockout", 0.9, 1.1)])
def test_a_screen_moves_the_targets_own_gene_as_its_kind_does(screen_, low, high):
    cells = data.perturbseq(screen=screen_, systematic=0, effect=1)
    for target in tables(cells)["singles"].query("`class` == 'null'").index:  # where nothing else moves
        truth = data.truth(cells, target).loc[target]
        assert low < truth["perturbed"] / truth["control"] < high


def test_a_null_target_moves_its_neighbours_only_while_cis_is_on():
    moved = {}
    for cis in (0.0, 0.5):
        cells = data.perturbseq(systematic=0, cis=cis)
        target = tables(cells)["singles"].query("`class` == 'null'").index[0]
        near = (cells.var["start"] - cells.var.loc[target, "start"]).abs() < 1e5
        near &= (cells.var["chromosome"] == cells.var.loc[target, "chromosome"]) & (cells.var_names != target)
        change = np.log(data.truth(cells, target)).diff(axis=1)["perturbed"]
        moved[cis] = (change[near] - change[~near].median()).abs().max()
        far = change[~near].drop(target)
        assert near.any() and (far - far.median()).abs().max() < 1e-3
    assert moved[0.0] < 1e-3 and moved[0.5] > 0.05


def test_the_systematic_shift_grows_with_its_knob():
    size = []
    for systematic in (0, 0.1, 0.3, 1):
        cells = data.perturbseq(systematic=systematic)
        null = tables(cells)["singles"].query("`class` == 'null'").index
        size.append(np.mean([np.log(data.truth(cells, t)).diff(axis=1)["perturbed"].drop(t).std() for t in null]))
    assert np.all(np.diff(size) > 0) and size[-1] > 10 * size[0]


def test_fitness_lowers_cells_and_umis_and_arrest_fills_g1():
    how = {"n_cells": 20_000, "mix": (0.3, 0.4, 0.3), "seed": 3}
    costly, free = data.perturbseq(fitness=1, **how), data.perturbseq(fitness=0, depth_loss=0, **how)
    singles = tables(costly)["singles"]
    cells = lambda screen: screen.obs["perturbation"].value_counts().reindex(singles.index, fill_value=0) / screen.n_obs
    assert stats.spearmanr(singles["cost"], cells(costly)).statistic < -0.7
    umis = costly.obs.groupby("perturbation", observed=True)["n_counts"].mean()
    assert stats.spearmanr(singles["cost"], umis.reindex(singles.index)).statistic < -0.6
    assert cells(free).max() / cells(free).min() < 5 < cells(costly).max() / cells(costly).min()
    held = tables(free)["singles"]["arrest"]
    g1 = free.obs.assign(g1=free.obs["phase"] == "G1").groupby("perturbation", observed=True)["g1"].mean()
    assert g1["control"] == pytest.approx(0.5, abs=0.05)
    assert (g1[held.index[held == 0]] < 0.57).all() and g1[held.idxmax()] > 0.6


def test_confounding_ties_batch_to_perturbation():
    free, tied = (data.perturbseq(confounding=c).obs for c in (0.0, 1.0))
    assert (pd.crosstab(tied["perturbation"], tied["batch"]) > 0).sum(axis=1).max() == 1
    assert stats.chi2_contingency(pd.crosstab(free["perturbation"], free["batch"])).pvalue > 1e-3


def test_zero_inflation_adds_zeros_and_keeps_means(screen):
    zeros = data.perturbseq(zero_inflation=0.3, fitness=0, n_cells=8000)
    plain = data.perturbseq(zero_inflation=0.0, fitness=0, n_cells=8000)
    share = lambda cells: cells.layers["counts"].nnz / cells.n_obs / cells.n_vars
    assert share(zeros) < 0.85 * share(plain)
    assert zeros.obs["n_counts"].mean() == pytest.approx(plain.obs["n_counts"].mean(), rel=0.02)


def test_the_seed_fixes_every_bit_also_in_another_process(screen):
    assert digest(data.perturbseq()) == digest(screen) != digest(data.perturbseq(seed=1))
    assert data.perturbseq().var["base"].equals(screen.var["base"])
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    script += "from lab import data; from test_perturbseq import digest; print(digest(data.perturbseq()))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == digest(screen)


def test_truth_survives_a_file_and_a_choice_of_cells(screen, tmp_path):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    back = data.read(tmp_path / "screen.h5ad")
    double = tables(screen)["doubles"].index[0]
    for label in (strong(screen)[0], double):
        pd.testing.assert_frame_equal(data.truth(back, label), data.truth(screen, label))
        pd.testing.assert_frame_equal(data.truth(back[:50].copy(), label), data.truth(screen, label))
    np.testing.assert_array_equal(data.counterfactual(back[:50], double), data.counterfactual(screen[:50], double))
    assert (tmp_path / "screen.h5ad").stat().st_size < 6e6
    without = data.perturbseq(n_doubles=0, mix=(1, 0, 0))
    without.write_h5ad(tmp_path / "singles.h5ad")
    assert data.truth(data.read(tmp_path / "singles.h5ad"), strong(without)[0]).shape == (300, 2)


def test_real_tables_take_the_place_of_drawn_genes():
    random = np.random.default_rng(0)
    names = [f"G{i}" for i in range(200)]
    annotation = pd.DataFrame(
        {"symbol": names, "chr": random.choice(["1", "X"], 200), "start": random.integers(1e6, size=200)}
    )
    sets = pd.DataFrame(random.random((150, 4)) < 0.2, names[:150], list("abcd")).astype(int)
    expression = pd.DataFrame({"mean": random.gamma(1, 1, 150) + 0.01, "phi": 0.5}, names[:150])
    cells = data.perturbseq(n_genes=100, annotation=annotation, gene_sets=sets)
    assert set(cells.var_names) <= set(names[:150]) and list(cells.varm["module"]) == list("abcd")
    where = annotation.set_index("symbol").loc[cells.var_names]
    assert (where["chr"] == cells.var["chromosome"]).all() and (where["start"] == cells.var["start"]).all()
    assert ((cells.varm["module"] != 0) == (sets.loc[cells.var_names] == 1)).all(axis=None)
    cells = data.perturbseq(expression=expression, gene_sets=0.3 * sets.astype(float), control=0.99, n_cells=20_000)
    assert cells.n_vars == 150 and (cells.varm["module"] == 0.3 * sets.loc[cells.var_names]).all(axis=None)
    mean = cells.layers["counts"][cells.obs["control"].to_numpy()].mean(0)
    np.testing.assert_allclose(np.asarray(mean).ravel(), expression["mean"].loc[cells.var_names], rtol=0.25)


@pytest.mark.real
def test_a_screen_on_the_human_genome_with_hallmark_modules():
    folder = Path(os.environ["LAB_DATA"])
    annotation = pd.read_csv(folder / "gene_annotation/grch38_protein_coding_symbol_chr_start.csv.gz")
    sets = data.programmes(file=folder / "gene_sets/human_hallmark_v2025.gmt")
    cells = data.perturbseq(n_genes=800, n_cells=1500, annotation=annotation, gene_sets=sets)
    where = annotation.drop_duplicates("symbol").set_index("symbol").loc[cells.var_names]
    assert (where["chr"].astype(str) == cells.var["chromosome"]).all() and (where["start"] == cells.var["start"]).all()
    assert set(cells.varm["module"]) <= set(sets) and cells.varm["module"].shape[1] > 40
    inside = cells.varm["module"] != 0
    assert (sets.loc[cells.var_names, inside.columns] == inside).all(axis=None)
    start = cells.var.groupby("chromosome")["start"].diff().abs()
    assert (start < 1e5).sum() > 20  # neighbours that a cis effect reaches
    whole = data.perturbseq(n_genes=800, n_cells=1500, annotation=annotation)
    assert whole.n_vars == 800 and list(whole.varm["module"]) == [f"module {i + 1}" for i in range(8)]


EXPRESSION = pd.DataFrame({"mean": [1.0, 2.0]}, ["A", "B"])


@pytest.mark.parametrize(
    "knobs, says",
    [
        ({"preset": "huge"}, "preset='huge' is not known; it is one of tiny, small, medium"),
        ({"screen": "CRISPR"}, "screen='CRISPR' is not known; it is one of interference, activation, knockout"),
        ({"effect": -1}, "effect=-1: it must lie between 0 and 10"),
        ({"systematic": 1.5}, "systematic=1.5: it must lie between 0 and 1"),
        ({"escape": float("nan")}, "escape=nan: it must lie between 0 and 1"),
        ({"control": 0}, "control=0: it must lie between 0.01 and 0.99"),
        ({"depth": 0}, "depth=0: it must lie between 1 and "),
        ({"n_modules": 0}, "n_modules=0: it must lie between 1 and 1000"),
        ({"mix": (0, 0, 0)}, r"mix=\(0, 0, 0\): it is the shares"),
        ({"dispersion": (0, 0, 0)}, "with a > 0 and s >= 0"),
        ({"n_cells": 50}, "it takes ten cells a condition"),
        ({"n_genes": 0}, "2000 cells, 0 genes, 10 targets"),
        ({"n_targets": 1}, "two targets and three genes a target"),
        ({"n_doubles": 20}, "n_doubles=20, and 6 targets with an effect make 15 pairs; raise n_targets"),
        ({"n_doubles": -1}, "change n_cells, n_genes, n_targets or n_doubles"),
        ({"expression": EXPRESSION.rename(columns={"mean": "mu"})}, "expression has no column 'mean'; add it"),
        ({"expression": 0 * EXPRESSION}, "not above 0; drop genes that were never counted"),
        ({"expression": pd.concat([EXPRESSION, EXPRESSION])}, "expression has 'A' twice; keep one row a gene"),
        ({"annotation": EXPRESSION}, "annotation has no column 'chromosome' nor 'start'; add it"),
        ({"gene_sets": EXPRESSION}, "the tables share 2 genes and 300 are asked"),
        (
            {"gene_sets": pd.DataFrame({"a": [1] + [0] * 399}, [f"G{i}" for i in range(400)])},
            "no gene set has three of the genes",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(knobs, says):
    with pytest.raises(Refused, match=says) as error:
        data.perturbseq(**knobs)
    assert "\n" not in str(error.value)


def test_truth_of_what_was_not_simulated_is_refused(screen):
    with pytest.raises(Refused, match="perturbation 'gene 0' was not simulated; take one of adata.obs: control, "):
        data.truth(screen, "gene 0")
    with pytest.raises(Refused, match="truth needs all 300 genes, and 20 are left; ask for the truth first"):
        data.truth(screen[:, :20], "control")
    with pytest.raises(Refused, match="carry no truth, or what prepare"):
        data.counterfactual(ad.AnnData(np.ones((2, 2))), "control")
    with pytest.raises(Refused, match="carry no truth, or what prepare.. left of it"):
        data.truth(data.prepare(screen, min_genes=1, min_cells=0), "control")
