"""`train`: good input becomes whole files; what the command says of a run is true of its model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import MODELS, QUICK, SETTINGS, assert_same_results, lines, simulated, written
from safetensors.torch import load_file
from scipy import sparse
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from lab import data, vae
from lab.command import folder, main
from lab.command.recipes import found
from lab.dist import negative_binomial


def test_training_raises_the_held_out_elbo_above_that_of_an_untrained_model_and_of_one_profile_for_all(finished):
    path, run = finished
    record, cells = json.loads((run / "run.json").read_text()), ad.read_h5ad(path)
    test = cells[ad.read_h5ad(run / "latent.h5ad").obs["held_out"].to_numpy()].copy()
    b = data.minibatch(test)
    torch.manual_seed(0)
    untrained = vae.elbo(vae.count_vae(50, 4, 32), b["x"], b).mean().item()
    one_profile = cells.layers["counts"].toarray().sum(0) / cells.layers["counts"].sum()
    theta = torch.tensor([1.0, 3.0, 10.0, 100.0])[:, None, None]
    flat = negative_binomial(b["log_library"].exp() * torch.tensor(one_profile).float(), theta).log_prob(b["x"])
    assert record["results"]["held-out ELBO"] > max(untrained, flat.sum(-1).mean(-1).max().item()) + 10
    assert record["results"]["held-out IWAE bound, k = 8"] > record["results"]["held-out ELBO"]


def test_metrics_have_a_row_per_step_and_the_record_says_how_to_repeat_the_run(finished):
    _, run = finished
    record, metrics = json.loads((run / "run.json").read_text()), pd.read_csv(run / "metrics.csv", index_col="step")
    assert list(metrics.index) == list(range(1, record["results"]["steps"] + 1)) and len(metrics) <= 120
    assert {"loss", "recon", "kl", "val_loss"} <= set(metrics)
    assert record["arguments"]["layer"] == "counts"
    assert record["arguments"]["seed"] == 0 and record["versions"]["torch"] == torch.__version__
    assert record["cells"] | {"sha256": ""} == {"number": 200, "held out": 20, "genes": 50, "sha256": ""}
    assert 1 <= record["results"]["active units"] <= 4


def test_latent_rows_are_the_posterior_means_of_the_input_cells_in_their_order(finished):
    path, run = finished
    cells, latent = ad.read_h5ad(path), ad.read_h5ad(run / "latent.h5ad")
    assert list(latent.obs_names) == list(cells.obs_names) != sorted(cells.obs_names)
    assert list(latent.obs["cell_type"]) == list(cells.obs["cell_type"])
    model = vae.count_vae(50, 4, 32)
    model.load_state_dict(load_file(run / "model.safetensors"))
    genes = (run / "genes.txt").read_text().split()
    x = torch.tensor(cells[:, genes].layers["counts"].toarray()).float()
    np.testing.assert_allclose(latent.obsm["X_vae"], model.posterior(x).mean.detach(), rtol=1e-4, atol=1e-5)


def test_the_same_command_on_a_finished_run_changes_nothing_and_says_so(finished, capsys):
    path, run = finished
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.rglob("*") if file.is_file()}
    assert main(lines(path, run, *SETTINGS)) == 0
    assert "is finished" in capsys.readouterr().out
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.rglob("*") if file.is_file()} == before


def test_more_epochs_continue_a_finished_run_to_the_weights_of_one_long_run(tmp_path):
    path = written(tmp_path)
    for epochs in ("2", "5"):
        assert main(lines(path, tmp_path / "grown", *QUICK, "--epochs", epochs)) == 0
    assert main(lines(path, tmp_path / "long", *QUICK, "--epochs", "5")) == 0
    assert_same_results(tmp_path / "grown", tmp_path / "long")


@pytest.mark.parametrize(
    "model", [name for name, recipe in found().items() if recipe.results is found()["vae"].results]
)
def test_every_vae_describes_held_out_cells_better_after_training_and_is_reopened_from_its_folder(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    assert main(lines(path, tmp_path / "run", *SETTINGS, *MODELS[model], model=model)) == 0
    trained, record = folder.reopen(tmp_path / "run")
    assert not trained.training and record["genes"] == list(ad.read_h5ad(path).var_names)
    cells, latent = ad.read_h5ad(path), ad.read_h5ad(tmp_path / "run" / "latent.h5ad")
    batches = data.loader(cells, *record["conditions"], size=200, shuffle=False, categories=record["conditions"])
    b = next(iter(batches))
    np.testing.assert_allclose(latent.obsm["X_vae"], trained.posterior(b["x"], b).mean.detach(), rtol=1e-4, atol=1e-4)
    test = {name: value[torch.tensor(latent.obs["held_out"].to_numpy())] for name, value in b.items()}
    torch.manual_seed(0)
    elbo = torch.stack([vae.elbo(trained, test["x"], test).mean() for _ in range(50)]).mean().item()
    assert record["results"]["held-out ELBO"] == pytest.approx(elbo, abs=1)
    untrained = vae.count_vae(50, 4, 32, conditions={name: len(of) for name, of in record["conditions"].items()})
    assert elbo > vae.elbo(untrained, test["x"], test).mean() + 10
    assert record["results"]["held-out IWAE bound, k = 8"] > record["results"]["held-out ELBO"]


def test_reopening_a_run_leaves_the_random_stream_alone(finished):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    folder.reopen(finished[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_conditional_model_knows_the_labels_by_the_codes_that_run_json_lists(told):
    """Batch moves half of the genes tenfold: the decoder's other-batch means must move them, and no others."""
    trained, record = folder.reopen(told[1])
    assert record["conditions"] == {"batch": ["day 0", "day 1", "day 2"]}
    z, library = torch.randn(500, 4), {"log_library": torch.zeros(500, 1)}
    b = [library | {"batch": torch.full((500,), code)} for code in range(3)]
    day = [trained.likelihood(z, cells).mean.mean(0).detach() for cells in b]
    odd = torch.arange(50) % 2 == 1
    assert (day[1] / day[0])[odd].log().mean() - (day[1] / day[0])[~odd].log().mean() > 1.5  # log 10 = 2.3
    assert (day[2] / day[0]).log().abs().mean() < 0.3


def test_the_depths_of_training_cells_are_kept_with_their_codes(told):
    cells, latent = ad.read_h5ad(told[0]), ad.read_h5ad(told[1] / "latent.h5ad")
    trained = cells[~latent.obs["held_out"].to_numpy()]
    depths = pd.read_csv(told[1] / "depths.csv", dtype={"log_library": np.float32})
    library = np.log(np.asarray(trained.layers["counts"].sum(1)).ravel()).astype(np.float32)
    np.testing.assert_array_equal(depths["log_library"], library)  # to the last digit of a float32
    assert [f"day {code}" for code in depths["batch"]] == list(trained.obs["batch"])


def test_the_weight_of_the_kl_rises_to_beta_in_training_and_is_beta_in_validation(tmp_path):
    path = written(tmp_path, n_cells=40)
    rising = [*QUICK, "--size", "12", "--beta", "2", "--warm-up", "8"]
    for steps in ("5", "12"):  # 36 training cells: 3 steps an epoch; the second continues the first
        assert main(lines(path, tmp_path / "run", *rising, "--steps", steps, model="beta-vae")) == 0
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv", index_col="step")
    np.testing.assert_allclose(metrics["beta"], np.minimum(np.arange(12) / 8, 1) * 2)
    np.testing.assert_allclose(metrics["loss"], metrics["beta"] * metrics["kl"] - metrics["recon"], rtol=1e-5)
    seen = metrics.dropna()
    assert len(seen) >= 4 and (seen["val_beta"] == 2).all()


def test_beta_one_is_the_vae_to_the_bit(tmp_path):
    path = written(tmp_path, n_cells=60)
    for model, options in {"vae": [], "beta-vae": ["--beta", "1"]}.items():
        assert main(lines(path, tmp_path / model, *QUICK, "--steps", "4", *options, model=model)) == 0
    weights = [(tmp_path / model / "model.safetensors").read_bytes() for model in ("vae", "beta-vae")]
    assert weights[0] == weights[1]


def test_more_beta_leaves_fewer_nats_in_the_latent_space(tmp_path):
    path, kl = written(tmp_path, n_cells=200, n_genes=50), {}
    for beta in ("0.1", "8"):
        line = lines(path, tmp_path / beta, *SETTINGS, "--beta", beta, "--patience", "100", model="beta-vae")
        assert main(line) == 0
        kl[beta] = pd.read_csv(tmp_path / beta / "metrics.csv")["kl"].iloc[-10:].mean()
    assert kl["8"] < kl["0.1"] / 2


@pytest.mark.parametrize("change", [lambda labels: labels[::-1], lambda labels: [f"on {label}" for label in labels]])
def test_other_labels_are_other_data(change, tmp_path, capsys):
    path = written(tmp_path)
    line = lines(path, tmp_path / "run", *QUICK, "--condition", "batch", model="cvae")
    assert main(line) == 0
    written(tmp_path, lambda cells: cells.obs.insert(0, "batch", change(cells.obs.pop("batch").to_numpy())))
    (tmp_path / "run" / "metrics.csv").unlink()
    assert main(line) == 1
    assert "other cells, genes, counts or conditions" in capsys.readouterr().err


def test_variable_genes_are_chosen_without_a_look_at_held_out_cells(tmp_path):
    path = written(tmp_path, n_cells=60, n_genes=30)
    assert main(lines(path, tmp_path / "run", *QUICK, "--genes", "10")) == 0
    held_out = ad.read_h5ad(tmp_path / "run" / "latent.h5ad").obs["held_out"].to_numpy()

    def wilder(cells):  # in held-out cells, genes not chosen become the most variable of all
        counts = cells.layers["counts"].toarray()
        quiet = np.flatnonzero(~cells.var_names.isin((tmp_path / "run" / "genes.txt").read_text().split()))
        counts[np.ix_(held_out, quiet)] = 0
        counts[held_out, quiet[: held_out.sum()]] = 5000
        cells.layers["counts"] = sparse.csr_matrix(counts)

    assert main(lines(written(tmp_path, wilder, 60, 30), tmp_path / "wilder", *QUICK, "--genes", "10")) == 0
    assert (tmp_path / "wilder" / "genes.txt").read_text() == (tmp_path / "run" / "genes.txt").read_text()


def nullable(cells):
    """Strings as pandas 3 and newer readers keep them, in obs and for the names of cells and genes."""
    cells.obs["plate"] = pd.array([f"plate {i % 3}" if i else None for i in range(20)], dtype="string")
    cells.obs["barcode"] = pd.array([f"barcode {i}" for i in range(20)], dtype="string")
    cells.obs.index, cells.var.index = cells.obs_names.astype("string"), cells.var_names.astype("string")


def test_strings_that_may_be_missing_are_written_as_they_were_read(tmp_path):
    with ad.settings.override(allow_write_nullable_strings=True):
        path = written(tmp_path, nullable)
    assert main(lines(path, tmp_path / "run", *QUICK)) == 0
    assert main(["embed", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "new.h5ad")]) == 0
    expected = ad.read_h5ad(path).obs
    for file in (tmp_path / "run" / "latent.h5ad", tmp_path / "new.h5ad"):
        pd.testing.assert_frame_equal(ad.read_h5ad(file).obs[expected.columns], expected)


def test_a_column_that_cannot_be_written_may_be_removed_as_the_sentence_says(tmp_path, capsys):
    with h5py.File(path := written(tmp_path), "r+") as file:  # as SeuratDisk leaves it
        file["obs"].move("_index", "cell")
        file["obs"].move("batch", "_index")
        file["obs"].attrs.update({"_index": "cell", "column-order": ["cell_type", "_index"]})
    assert main(line := lines(path, tmp_path / "run", *QUICK)) == 1
    adata = ad.read_h5ad(path)
    exec(re.search("del .*", capsys.readouterr().err)[0])
    adata.write_h5ad(path)
    assert main(line) == 0


def test_a_measurement_and_codes_become_conditions_as_the_sentence_says(tmp_path, capsys):
    adata = simulated(60, 10)
    adata.obs["age"], adata.obs["lane"] = np.arange(60) / 7, np.arange(60) % 2
    for column, how in {"age": r"by (.*), of codes", "lane": r"of codes by (.*)"}.items():
        adata.write_h5ad(tmp_path / "cells.h5ad")
        line = lines(tmp_path / "cells.h5ad", tmp_path / column, *QUICK, "--condition", column, model="cvae")
        assert main(line) == 1
        exec(re.search(how, capsys.readouterr().err)[1], {"adata": adata, "pandas": pd})
        adata.write_h5ad(tmp_path / "cells.h5ad")
        assert main(line) == 0


def test_a_column_of_the_users_is_never_replaced(tmp_path):
    mine = ["mine", "yours"] * 10

    def taken(*names):
        return lambda cells: setattr(cells, "obs", cells.obs.assign(**dict.fromkeys(names, mine)))

    held_out = {}
    for out, names in {"none": [], "one": ["held_out"], "two": ["held_out", "held_out_by_lab"]}.items():
        path = written(tmp_path, taken(*names), name=f"{out}.h5ad")
        assert main(lines(path, tmp_path / out, *QUICK)) == 0
        obs = ad.read_h5ad(tmp_path / out / "latent.h5ad").obs
        assert all(list(obs[name]) == mine for name in names) and len(obs.columns) == 5 + len(names)
        held_out[obs.columns[-1]] = list(obs.iloc[:, -1])
    assert list(held_out) == ["held_out", "held_out_by_lab", "held_out_by_lab_by_lab"]
    assert len(set(map(tuple, held_out.values()))) == 1 and sum(held_out["held_out"]) == 2


def test_names_in_any_letters_survive_a_machine_that_knows_only_ascii(tmp_path):
    greek = lambda cells: setattr(cells, "var_names", [f"\u03b1{i}" for i in range(10)])
    path, run = written(tmp_path, greek), tmp_path / "run"
    less = written(tmp_path, lambda cells: greek(cells) or cells[:, 1:].copy(), name="less.h5ad")
    ascii_alone = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for line in (
        lines(path, run, *QUICK),
        ["sample", str(run), "--out", str(tmp_path / "new.h5ad"), "--n", "5"],
        ["embed", str(run), str(less), "--out", str(tmp_path / "more.h5ad")],  # which names the gene that is missing
    ):
        done = subprocess.run([sys.executable, "-m", "lab", *line], env=ascii_alone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (run / "genes.txt").read_bytes().decode() == "".join(f"\u03b1{i}\n" for i in range(10))
    assert list(ad.read_h5ad(tmp_path / "new.h5ad").var_names) == [f"\u03b1{i}" for i in range(10)]
    assert "are missing (\\u03b10)" in done.stdout


@pytest.mark.parametrize("options", [["--size", "1", "--steps", "5"], ["--size", "17"], ["--size", "1000"]])
def test_minibatches_of_one_cell_and_larger_than_the_set_are_fine(options, tmp_path):
    assert main(lines(written(tmp_path), tmp_path / "run", *QUICK, *options)) == 0  # 18 training cells: 17 + 1


def test_a_gene_that_no_cell_has_is_fine(tmp_path):
    def silence(cells):
        cells.layers["counts"] = cells.layers["counts"] @ sparse.diags([1] * 9 + [0]).astype(int).tocsr()

    assert main(lines(written(tmp_path, silence), tmp_path / "run", *QUICK)) == 0


def test_the_embedded_set_is_trained_by_its_name(tmp_path):
    assert main(lines("pbmc", tmp_path / "run", "--steps", "3")) == 0
    assert ad.read_h5ad(tmp_path / "run" / "latent.h5ad").shape[0] == 700


@pytest.mark.real
@pytest.mark.parametrize(
    "source, options, genes",
    [("citeseq", ["--genes", "500", "--epochs", "60"], 500), ("kang", ["--genes", "2000", "--epochs", "15"], 2000)],
)
def test_real_cells_are_described_better_at_the_end_than_after_the_first_epoch(source, options, genes, tmp_path):
    assert main(lines(source, tmp_path / "run", *options)) == 0
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")["val_loss"].dropna()
    assert metrics.min() < metrics.iloc[0] - 20
    assert len((tmp_path / "run" / "genes.txt").read_text().split("\n")) == genes + 1


@pytest.mark.real
def test_a_model_that_is_told_the_stimulus_keeps_less_of_it_in_its_latent_space_and_predicts_cells_better(tmp_path):
    told, elbo = {}, {}
    for model, options in {"vae": [], "cvae": ["--condition", "perturbation"]}.items():
        assert main(lines("kang", tmp_path / model, "--epochs", "20", *options, model=model)) == 0
        latent = ad.read_h5ad(tmp_path / model / "latent.h5ad")
        neighbours = KNeighborsClassifier(15)
        told[model] = cross_val_score(neighbours, latent.obsm["X_vae"], latent.obs["perturbation"]).mean()
        elbo[model] = json.loads((tmp_path / model / "run.json").read_text())["results"]["held-out ELBO"]
    assert told["cvae"] < told["vae"] - 0.05 and elbo["cvae"] > elbo["vae"] + 2


@pytest.mark.real
def test_a_real_file_with_counts_in_x_is_trained_by_its_path(tmp_path):
    path = next(Path(os.environ["LAB_DATA"]).rglob("pbmc_5k_protein_v3.h5ad"))
    assert main(lines(path, tmp_path / "run", "--layer", "X", "--genes", "all", "--steps", "2")) == 0
    assert list(ad.read_h5ad(tmp_path / "run" / "latent.h5ad").obs_names) == list(ad.read_h5ad(path).obs_names)
