"""`python -m lab`: bad input ends in one sentence, good input in whole files; a run is continued to the same bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy import sparse
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import lab.run
from lab import data, vae
from lab.__main__ import main
from lab.dist import negative_binomial

QUICK = ["--epochs", "1", "--n-hidden", "8", "--n-latent", "2"]
SETTINGS = ["--epochs", "60", "--n-hidden", "32", "--n-latent", "4", "--lr", "0.005"]


def simulated(n_cells=200, n_genes=50, seed=0):
    """Two cell types whose genes differ threefold, negative-binomial counts (theta = 3), names in no order."""
    random = np.random.default_rng(seed)
    profile = random.gamma(1, 4, (2, n_genes)) * np.repeat([[1, 3], [3, 1]], n_genes // 2, axis=1)[:, :n_genes]
    kind = random.integers(0, 2, n_cells)
    counts = random.poisson(random.gamma(3, profile[kind] / 3)).astype(np.int32)
    counts[:, 0] += 1
    names = [f"cell-{i}" for i in random.permutation(n_cells)]
    batch = [f"day {i % 3}" for i in range(n_cells)]
    obs = pd.DataFrame({"cell_type": pd.Categorical.from_codes(kind, ["A", "B"]), "batch": batch}, names)
    var = pd.DataFrame(index=[f"gene-{i}" for i in range(n_genes)])
    return ad.AnnData(layers={"counts": sparse.csr_matrix(counts)}, obs=obs, var=var)


def written(folder, change=None, n_cells=20, n_genes=10):
    """The path of an .h5ad with small simulated cells after `change(cells)`, which may return other cells."""
    cells = simulated(n_cells, n_genes)
    changed = change(cells) if change else None
    (cells if changed is None else changed).write_h5ad(path := folder / "cells.h5ad")
    return path


def dense(change):
    """The counts as a dense float X, after `change(x)`."""

    def apply(cells):
        x = cells.layers["counts"].toarray().astype(float)
        return ad.AnnData(changed if (changed := change(x)) is not None else x, obs=cells.obs, var=cells.var)

    return apply


def put(value):
    def change(x):
        x[3, 4] = value

    return dense(change)


def stored(value):
    """One stored value of the sparse counts replaced."""

    def change(cells):
        cells.layers["counts"] = cells.layers["counts"].astype(float)
        cells.layers["counts"].data[5] = value

    return change


def train(folder, path=None, *options, out=None):
    return lines(path or written(folder), out or folder / "run", *QUICK, *options)


def lines(path, out, *options, model="vae"):
    return ["train", model, "--data", str(path), "--out", str(out), *options]


def train_x(folder, change):
    return train(folder, written(folder, change), "--layer", "X")


def option(*words, model="vae"):
    return lambda folder: lines(written(folder), folder / "run", *QUICK, *words, model=model)


def conditioned(*columns, change=None):
    """cvae on cells whose obs `change(obs)` has altered."""

    def make(folder):
        path = written(folder, lambda cells: change and change(cells.obs))
        return lines(path, folder / "run", *QUICK, "--conditions", *columns, model="cvae")

    return make


def column(name, values):
    return lambda obs: obs.insert(0, name, values)


def rare(obs):
    """A label of the held-out cells alone."""
    obs["batch"] = np.where(lab.run._held_out(ad.AnnData(obs=obs), 0.1, 0), "day 9", "day 0")


def file_of(content, name="cells.h5ad"):
    def make(folder):
        (folder / name).write_bytes(content)
        return train(folder, folder / name)

    return make


def truncated(folder):
    path = written(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return train(folder, path)


def not_anndata(folder):
    with h5py.File(folder / "cells.h5ad", "w") as file:
        file["numbers"] = np.arange(5)
    return train(folder, folder / "cells.h5ad")


def textual(folder):
    path = written(folder, dense(lambda x: None))
    with h5py.File(path, "a") as file:
        del file["X"]
        file["X"] = np.full((20, 10), b"many")
        file["X"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    return train(folder, path, "--layer", "X")


def below_a_file(folder):
    (folder / "file").write_text("")
    return train(folder, out=folder / "file" / "run")


def onto_a_file(folder):
    (folder / "run").write_text("mine")
    return train(folder)


def foreign(folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("mine")
    return train(folder)


def begun(folder, *then, damage=lambda run: None):
    """A run that reached its end, then `damage`, then the command again with the options `then`."""
    line = train(folder, None, "--epochs", "2")
    assert main(line) == 0
    damage(folder / "run")
    return [*line, *then]


def again(*then, damage=lambda run: None):
    return lambda folder: begun(folder, *then, damage=damage)


def other_cells(run):
    written(run.parent, lambda cells: cells[::-1].copy())
    (run / "metrics.csv").unlink()


def shortened(name):
    def damage(run):
        file = next((run / "checkpoint").glob(f"step-*/{name}"))
        file.write_bytes(file.read_bytes()[:100])
        (run / "metrics.csv").unlink()

    return damage


def wrong_hash(folder):
    (folder / "pbmc3k_filtered_gene_bc_matrices.tar.gz").write_bytes(b"another version")
    os.environ["LAB_DATA"] = str(folder)  # conftest unsets it for the next test
    return train(folder, "pbmc3k")


def with_environment(name, value, *line):
    def make(folder):
        os.environ[name] = value
        return list(line) or train(folder)

    return make


def nearly_empty(cells):
    """A cell whose only counts are in the gene that varies least."""
    counts = cells.layers["counts"].tolil()
    counts[:, 0] = 3
    counts[7] = 0
    counts[7, 0] = 3
    cells.layers["counts"] = counts.tocsr()


BAD = {  # what is wrong: (the command line, words of the sentence)
    "log-normalised X": (lambda f: train_x(f, dense(np.log1p)), "log-normalised"),
    "scaled X": (lambda f: train_x(f, dense(lambda x: x - x.mean(0))), "negative"),
    "a layer that is missing": (option("--layer", "umi"), "no layer 'umi'"),
    "no counts layer": (lambda f: train(f, written(f, dense(lambda x: None))), "--layer X"),
    "NaN": (lambda f: train_x(f, put(np.nan)), "NaN"),
    "NaN in a sparse matrix": (lambda f: train(f, written(f, stored(np.nan))), "NaN"),
    "infinity": (lambda f: train_x(f, put(np.inf)), "infinite"),
    "a negative count": (lambda f: train_x(f, put(-1)), "negative"),
    "a fraction in a sparse matrix": (lambda f: train(f, written(f, stored(2.5))), "2.5"),
    "a count above 2^31": (lambda f: train_x(f, put(3e9)), "3e+09"),
    "complex numbers": (lambda f: train_x(f, dense(lambda x: x + 1j)), "complex"),
    "words for numbers": (textual, "not numbers"),
    "a cell without counts": (lambda f: train_x(f, dense(lambda x: x * (np.arange(20) != 3)[:, None])), "1 of 20"),
    "a cell without counts in the genes chosen": (
        lambda f: train(f, written(f, nearly_empty), "--genes", "3"),
        "among the 3 most variable",
    ),
    "gene names twice": (lambda f: train(f, written(f, lambda c: setattr(c, "var_names", list(10 * "g")))), "name 'g'"),
    "cell names twice": (lambda f: train(f, written(f, lambda c: setattr(c, "obs_names", list(20 * "c")))), "name 'c'"),
    "no genes": (lambda f: train(f, written(f, lambda c: c[:, []].copy())), "no genes"),
    "no cells": (lambda f: train(f, written(f, lambda c: c[[]].copy())), "no cells"),
    "one cell": (lambda f: train(f, written(f, lambda c: c[:1].copy())), "at least two cells"),
    "a fraction that holds out no cell": (option("--validation", "0.01"), "none to hold out"),
    "X absent": (lambda f: train(f, None, "--layer", "X"), "X is empty"),
    "truncated .h5ad": (truncated, "truncated or damaged"),
    "an .h5ad of no bytes": (file_of(b""), "not an .h5ad"),
    "text named .h5ad": (file_of(b"gene,count\nA,1\n"), "not an .h5ad"),
    "a table": (file_of(b"gene,count\nA,1\n", "cells.csv"), "not named .h5ad"),
    "HDF5 of something else": (not_anndata, "cannot be read as .h5ad"),
    "no such file": (lambda f: train(f, f / "none.h5ad"), "there is no file"),
    "a folder for a file": (lambda f: train(f, f), "is a folder"),
    "a set of no such name": (lambda f: train(f, "pbcm"), "no data set pbcm"),
    "a set that is not counts": (lambda f: train(f, "digits"), "no layer 'counts'"),
    "a published file of another version": (wrong_hash, "not the published"),
    "LAB_DATA does not exist": (with_environment("LAB_DATA", "/nowhere", "data"), "LAB_DATA=/nowhere"),
    "more genes than there are": (option("--genes", "11"), "there are 10"),
    "no genes asked": (option("--genes", "0"), "--genes 0"),
    "genes in words": (option("--genes", "many"), "'many'"),
    "no latent space": (option("--n-latent", "0"), "--n-latent 0"),
    "no hidden units": (option("--n-hidden", "-8"), "--n-hidden -8"),
    "no epochs": (option("--epochs", "0"), "--epochs 0"),
    "no steps": (option("--steps", "0"), "--steps 0"),
    "no patience": (option("--patience", "0"), "--patience 0"),
    "minibatches of no cells": (option("--size", "0"), "--size 0"),
    "minibatches that two processes cannot share": (
        with_environment("WORLD_SIZE", "2", *lines("pbmc", "run", "--size", "5")),
        "multiple of 2",
    ),
    "learning rate 0": (option("--lr", "0"), "--lr 0"),
    "learning rate below 0": (option("--lr", "-0.1"), "--lr -0.1"),
    "learning rate NaN": (option("--lr", "nan"), "--lr nan"),
    "a learning rate that explodes": (option("--lr", "1e30", "--epochs", "5"), "lower lr"),
    "nothing held out": (option("--validation", "0"), "--validation 0"),
    "everything held out": (option("--validation", "1"), "--validation 1"),
    "a negative seed": (option("--seed", "-1"), "--seed -1"),
    "a seed beyond 64 bits": (option("--seed", str(2**64)), "--seed"),
    "a word for a number": (option("--n-latent", "ten"), "'ten'"),
    "an option without its value": (option("--n-latent"), "--n-latent"),
    "an unknown option": (option("--n-latnt", "3"), "perhaps you meant --n-latent"),
    "a condition that is missing": (conditioned("tissue"), "no column 'tissue'; it has: cell_type, batch"),
    "a condition in numbers": (conditioned("age", change=column("age", np.arange(20) / 7)), "pandas.cut"),
    "a condition in codes": (conditioned("lane", change=column("lane", np.arange(20) % 2)), "astype('category')"),
    "a condition with NaN": (conditioned("lane", change=column("lane", [None, *9 * "a", *10 * "b"])), "missing for 1"),
    "a label among held-out cells alone": (conditioned("batch", change=rare), "2 cells with obs['batch'] = 'day 9'"),
    "a label for every cell": (conditioned("name", change=column("name", list("abcdefghijklmnopqrst"))), "held out"),
    "one label for all": (conditioned("lane", change=column("lane", "one")), "'one' in every cell"),
    "a condition twice": (conditioned("batch", "cell_type", "batch"), "'batch' is named more than once"),
    "no condition": (conditioned(), "train vae"),
    "a condition named x": (conditioned("x", change=column("x", 20 * "a")), "rename that obs column"),
    "a condition named log_library": (conditioned("log_library"), "rename that obs column"),
    "a condition that torch cannot name": (
        conditioned("orig.ident", change=column("orig.ident", [*10 * "a", *10 * "b"])),
        "adata.obs['orig_ident'] = ",
    ),
    "a negative beta": (option("--beta", "-1", model="beta-vae"), "--beta -1"),
    "an infinite beta": (option("--beta", "inf", model="beta-vae"), "--beta inf"),
    "a negative warm-up": (option("--warm-up", "-1", model="beta-vae"), "--warm-up -1"),
    "no samples": (option("--k", "0", model="iwae"), "--k 0"),
    "more samples than fit": (option("--k", "10000000000", model="iwae"), "a smaller --k needs less"),
    "a learning rate that iwae cannot take": (option("--lr", "0", model="iwae"), "--lr 0"),
    "vae with beta": (option("--beta", "2"), "--beta"),
    "a stray word": (option("stray"), "stray"),
    "no data": (lambda f: ["train", "vae", "--out", str(f / "run")], "--data"),
    "an unknown command": (lambda f: ["trian"], "did you mean train?"),
    "an unknown model": (lambda f: ["train", "gan"], "choose vae or cvae or beta-vae or iwae"),
    "an option that doctor lacks": (lambda f: ["doctor", "--loud"], "--loud"),
    "out is a file": (onto_a_file, "is a file"),
    "out below a file": (below_a_file, "no folder"),
    "out in a folder that is missing": (lambda f: train(f, out=f / "none" / "run"), "no folder"),
    "out where nothing can be written": (lambda f: train(f, out="/proc/run"), "/proc/run"),
    "out is somebody else's": (foreign, "holds no run"),
    "a run of another model": (lambda f: ["train", "iwae", *begun(f)[2:]], "model = vae, not iwae"),
    "a run with other settings": (again("--n-latent", "3"), "n_latent = 2, not 3"),
    "a run on other cells": (again(damage=other_cells), "other cells"),
    "a run that is longer already": (again("--epochs", "1"), "already at step 2"),
    "a checkpoint whose state is damaged": (again(damage=shortened("state.pt")), "damaged"),
    "a checkpoint whose weights are damaged": (again(damage=shortened("model.safetensors")), "damaged"),
    "a run.json that is damaged": (again(damage=lambda run: (run / "run.json").write_text("{")), "holds no run"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input_ends_in_one_sentence_and_nothing_half_written(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    make, words = BAD[wrong]
    line = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    code = main(line)
    said = capsys.readouterr().err.strip().split("\r")[-1].strip()  # what a progress bar drew ends in \r
    assert code in (1, 2)
    assert said.startswith("error: ") and said.count("\n") == 0 and "unforeseen" not in said
    assert words in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def python_m_lab(*words, **how):
    return subprocess.run([sys.executable, "-m", "lab", *words], capture_output=True, text=True, timeout=120, **how)


@pytest.mark.parametrize("line, status", [(["train", "vae", "--data", "none.h5ad", "--out", "run"], 1), (["trian"], 2)])
def test_a_process_ends_with_the_status_and_one_line_on_stderr(line, status, tmp_path):
    done = python_m_lab(*line, cwd=tmp_path)
    assert done.returncode == status and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_what_nobody_foresaw_is_one_sentence_and_a_traceback_with_debug(monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", lambda: 1 / 0)
    assert main(["data"]) == 1
    said = capsys.readouterr().err
    assert "unforeseen ZeroDivisionError: division by zero" in said and "doctor" in said and said.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        main(["data", "--debug"])


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "vae", "--help"],
        ["train", "cvae", "--help"],
        lines("x", "y", "--lr", "0"),
        lines("x", "y", "--n-latent", "ten"),
    ],
)
def test_nothing_heavy_is_imported_before_the_line_is_understood(line):
    code = (
        "import sys; from lab.__main__ import main; main(sys.argv[1:]); "
        "print('heavy:', {'torch', 'numpy', 'pandas', 'scanpy', 'anndata', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert done.stdout.endswith("heavy: set()\n")


@pytest.mark.parametrize(
    "model, own",
    {"vae": [], "cvae": ["--conditions"], "beta-vae": ["--beta", "--warm-up"], "iwae": ["--k", "--doubly"]}.items(),
)
def test_help_lists_the_options_that_all_models_share_and_those_of_one(model, own, capsys):
    assert main(["train", model, "--help"]) == 0
    said = capsys.readouterr().out
    for name in [
        "--data",
        "--out",
        "--layer",
        "--genes",
        "--n-latent",
        "--n-hidden",
        "--epochs",
        "--steps",
        "--patience",
        "--size",
        "--lr",
        "--validation",
        "--seed",
        *own,
    ]:
        assert f"{name} " in said
    for word in ("latent.h5ad", "run.json", "held-out loss" if model != "cvae" else "run.json keeps"):
        assert word in " ".join(said.replace("│", " ").split())


def test_help_takes_less_than_half_a_second():
    def seconds():
        start = time.perf_counter()
        assert python_m_lab("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_doctor_names_versions_devices_and_back_ends_with_reasons(capsys, monkeypatch):
    monkeypatch.setenv("LAB_DATA", "/nowhere")
    assert main(["doctor"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["torch"] == torch.__version__ and said["anndata"] == ad.__version__
    assert said["cpu"].startswith(f"{torch.get_num_threads()} threads")
    assert "1 process," in said["training"] and "/nowhere does not exist" in said["LAB_DATA"]
    assert any(said["selective"].startswith(f"scan  {choice}: ") for choice in ("cuda", "numba", "torch"))


@pytest.mark.parametrize(
    "module, why",
    [
        ("selective_scan_cuda = None", "without its CUDA kernel"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "cannot be imported (undefined symbol: _ZN3c10)"),
    ],
)
def test_doctor_does_not_believe_that_an_importable_mamba_works(module, why, tmp_path, monkeypatch, capsys):
    package = tmp_path / "mamba_ssm" / "ops"
    package.mkdir(parents=True)
    for init in (package.parent / "__init__.py", package / "__init__.py"):
        init.write_text("")
    (package / "selective_scan_interface.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("selective scan"))
    assert why in line and "cuda:" not in line
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        del sys.modules[name]


def test_data_says_of_every_set_where_it_comes_from_and_under_which_licence(capsys):
    assert main(["data"]) == 0
    said = capsys.readouterr().out
    for call, row in data.sets().iterrows():
        line = next(line for line in said.splitlines() if line.startswith(call))
        assert all(str(row[column]) in line for column in ("kind", "licence", "source", "status"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the file, the folder of a finished run on it): 200 cells x 50 genes, 60 epochs of 2 steps."""
    folder = tmp_path_factory.mktemp("finished")
    path = written(folder, n_cells=200, n_genes=50)
    assert main(lines(path, folder / "run", *SETTINGS)) == 0
    return path, folder / "run"


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


def assert_same_results(one, other):
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    np.testing.assert_array_equal(*(ad.read_h5ad(run / "latent.h5ad").obsm["X_vae"] for run in (one, other)))
    results = [json.loads((run / "run.json").read_text())["results"] for run in (one, other)]
    assert results[0] == results[1]


MODELS = {
    "vae": [],
    "cvae": ["--conditions", "batch", "cell_type"],
    "beta-vae": ["--warm-up", "200"],
    "iwae": ["--k", "3", "--doubly"],
}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_killed_in_the_middle_ends_with_the_weights_of_one_that_was_not(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    options = ["--steps", "300", "--patience", "1000", "--size", "16", *MODELS[model]]
    line = lambda out: lines(path, tmp_path / out, *options, model=model)
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", *line("killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any((tmp_path / "killed" / "checkpoint").glob("step-0000001*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    for out in ("killed", "whole"):
        assert main(line(out)) == 0
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


def rebuilt(run):
    """The model of a finished run, from its folder alone, and the record."""
    record = json.loads((run / "run.json").read_text())
    given, genes = record["arguments"], (run / "genes.txt").read_text().split()
    levels = {name: len(labels) for name, labels in record["conditions"].items()}
    model = vae.count_vae(len(genes), given["n_latent"], given["n_hidden"], conditions=levels)
    model.load_state_dict(load_file(run / "model.safetensors"))
    return model, record


@pytest.mark.parametrize("model", MODELS)
def test_every_model_describes_held_out_cells_better_after_training_and_is_rebuilt_from_its_folder(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    assert main(lines(path, tmp_path / "run", *SETTINGS, *MODELS[model], model=model)) == 0
    trained, record = rebuilt(tmp_path / "run")
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


def test_a_conditional_model_knows_the_labels_by_the_codes_that_run_json_lists(tmp_path):
    """Batch moves half of the genes tenfold: the decoder's other-batch means must move them, and no others."""

    def shift(cells):
        counts = cells.layers["counts"].toarray()
        counts[np.ix_(cells.obs["batch"] == "day 1", np.arange(50) % 2 == 1)] *= 10
        cells.layers["counts"] = sparse.csr_matrix(counts)

    path = written(tmp_path, shift, n_cells=300, n_genes=50)
    assert main(lines(path, tmp_path / "run", *SETTINGS, "--conditions", "batch", model="cvae")) == 0
    trained, record = rebuilt(tmp_path / "run")
    assert record["conditions"] == {"batch": ["day 0", "day 1", "day 2"]}
    z, library = torch.randn(500, 4), {"log_library": torch.zeros(500, 1)}
    b = [library | {"batch": torch.full((500,), code)} for code in range(3)]
    day = [trained.likelihood(z, cells).mean.mean(0).detach() for cells in b]
    odd = torch.arange(50) % 2 == 1
    assert (day[1] / day[0])[odd].log().mean() - (day[1] / day[0])[~odd].log().mean() > 1.5  # log 10 = 2.3
    assert (day[2] / day[0]).log().abs().mean() < 0.3


def test_the_weight_of_the_kl_rises_to_beta_in_training_and_is_beta_in_validation(tmp_path):
    path = written(tmp_path, n_cells=40)
    for steps in ("5", "12"):  # 36 training cells: 3 steps an epoch; the second continues the first
        assert (
            main(
                lines(
                    path,
                    tmp_path / "run",
                    *QUICK,
                    "--steps",
                    steps,
                    "--size",
                    "12",
                    "--beta",
                    "2",
                    "--warm-up",
                    "8",
                    model="beta-vae",
                )
            )
            == 0
        )
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
    line = lines(path, tmp_path / "run", *QUICK, "--conditions", "batch", model="cvae")
    assert main(line) == 0
    written(tmp_path, lambda cells: column("batch", change(cells.obs.pop("batch").to_numpy()))(cells.obs))
    (tmp_path / "run" / "metrics.csv").unlink()
    assert main(line) == 1
    assert "other cells, genes, counts or conditions" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["cvae", "beta-vae"])
def test_two_processes_share_one_run_and_the_first_writes_it(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lab"]
    done = subprocess.run(
        [*torchrun, *lines(path, tmp_path / "run", "--epochs", "20", "--lr", "0.005", *MODELS[model], model=model)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["results"]["processes"] == 2 and done.stdout.count("results go to") == 1
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")["val_loss"].dropna()
    assert metrics.iloc[-1] < metrics.iloc[0] - 10
    assert ad.read_h5ad(tmp_path / "run" / "latent.h5ad").n_obs == 200


@pytest.mark.parametrize("genes", ["all", "10"])
def test_a_file_that_stays_on_disk_trains_the_model_that_one_in_memory_does(genes, tmp_path, monkeypatch):
    path = written(tmp_path, n_cells=60, n_genes=30)
    assert main(lines(path, tmp_path / "memory", *QUICK, "--genes", genes)) == 0
    monkeypatch.setattr(lab.run, "IN_MEMORY", 0)
    monkeypatch.setattr(ad, "read_h5ad", None)  # nothing may read the whole file
    assert main(lines(path, tmp_path / "disk", *QUICK, "--genes", genes)) == 0
    monkeypatch.undo()
    assert_same_results(tmp_path / "memory", tmp_path / "disk")
    assert len((tmp_path / "disk" / "genes.txt").read_text().split()) == (30 if genes == "all" else 10)


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
    for model, options in {"vae": [], "cvae": ["--conditions", "perturbation"]}.items():
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
