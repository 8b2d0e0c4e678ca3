"""`train bimamba`: from files to judged predictions, by the library's own model, and in the challenge's layout."""

import functools
import json
import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import MODELS, assert_same_results, lines, written
from scipy import sparse

from lab import data, perturb, transcriptome
from lab.command import folder, main
from lab.command.parts import held_out_of
from lab.command.vcc import vcc

QUICK = [
    "--control",
    "control",
    "--genes",
    "all",
    "--width",
    "8",
    "--n-state",
    "2",
    "--n-pathways",
    "3",
    "--steps",
    "3",
]
HEADS = pytest.mark.parametrize("head", ["linear", "probabilistic"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder, `train` without the cells of one target, `truth`, controls `a` and `b`, `loci` of all genes but three;
    and that target."""
    place = tmp_path_factory.mktemp("screen")
    cells = data.perturbseq(n_genes=60, n_cells=600, n_targets=6, n_doubles=0)
    control = cells.obs["control"].to_numpy()
    a, b = perturb.control_halves(cells[control].copy())
    name = min(set(cells.obs["perturbation"]) - {"control"})
    known, truth = perturb.hold_out(cells[~control].copy(), test=[name])
    for file, part in {"a": a, "b": b, "truth": truth, "train": ad.concat([a, known])}.items():
        obs = part.obs[["perturbation", "n_counts"]].astype({"perturbation": str})
        ad.AnnData(layers={"counts": part.layers["counts"]}, obs=obs, var=part.var[[]]).write_h5ad(
            place / f"{file}.h5ad"
        )
    cells.var[["chromosome", "start"]].iloc[3:].rename_axis("symbol").to_csv(place / "loci.csv")
    return place, name


@pytest.fixture(scope="module")
def runs(files):
    @functools.cache
    def run(head):
        place = files[0]
        more = ["--head", head, "--annotation", str(place / "loci.csv")]
        assert main(lines(place / "train.h5ad", place / head, *QUICK, *more, model="bimamba")) == 0
        return place / head

    return run


def predicted(run, out, *words):
    assert main(["predict", str(run), str(run.parent / "a.h5ad"), "--out", str(out), *words]) == 0
    return ad.read_h5ad(out)


@HEADS
def test_what_is_predicted_of_a_target_that_no_training_cell_has_is_the_library_s_own(head, files, runs, tmp_path):
    place, name = files
    run = runs(head)
    found = predicted(run, tmp_path / "new.h5ad", "--condition", f"perturbation={name}")
    model, record = folder.reopen(run)
    own = model.predict(ad.read_h5ad(place / "a.h5ad"), name)
    values = lambda cells: cells.layers["counts"].toarray() if head == "probabilistic" else cells.X
    np.testing.assert_array_equal(values(found), values(own))
    known = json.loads((run / "run.json").read_text())["results"]
    assert known["genes without a locus"] == 3 and known["perturbations that are no gene here"] == 0
    assert model.tokens.known.sum() == 57 and model.head.full == (head == "linear")
    where = transcriptome.loci(found.var_names, pd.read_csv(place / "loci.csv"))
    np.testing.assert_array_equal(model.tokens.order, transcriptome.GeneTokens(where).order)
    sides = ["--control", str(place / "a.h5ad"), "--truth-control", str(place / "b.h5ad")]
    line = [
        "evaluate",
        str(tmp_path / "new.h5ad"),
        str(place / "truth.h5ad"),
        *sides,
        "--train",
        str(place / "train.h5ad"),
    ]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0


def test_its_r2_is_that_of_held_out_cells_about_the_training_perturbations_mean(files, runs):
    place, _ = files
    run = runs("linear")
    model, record = folder.reopen(run)
    cells = ad.read_h5ad(place / "train.h5ad")
    held_out = held_out_of(cells.obs_names, *(record["arguments"][name] for name in ("validation", "seed")))
    log = np.log1p(1e4 * cells.layers["counts"].toarray() / cells.obs["n_counts"].to_numpy()[:, None])
    means = lambda rows: (
        pd.DataFrame(log[rows]).groupby(cells.obs["perturbation"].to_numpy()[rows]).mean().drop("control")
    )
    truth, mean = means(held_out), means(~held_out).mean().to_numpy()
    found = ad.read_h5ad(run / "profiles.h5ad")
    assert list(found.obs["perturbation"]) == list(truth.index)
    for name in truth.index:
        told = model.head.mean(model(model.conditions.row(name))).detach().squeeze()
        np.testing.assert_allclose(found[name].X[0], told, rtol=1e-4)
    known = record["results"]
    assert known["held-out R2 by gene"] == pytest.approx(perturb.r2(found.X, truth.to_numpy(), mean), abs=1e-4)
    flat = perturb.r2(found.X, truth.to_numpy(), mean, flat=True)
    assert known["flattened, which any gene means score on"] == pytest.approx(flat, abs=1e-4)


@HEADS
def test_the_challenge_s_layout_holds_controls_and_predictions_on_one_scale(head, files, runs, tmp_path):
    place, name = files
    told = ["--condition", f"perturbation={name}", "--layout", "vcc"]
    found, a = predicted(runs(head), tmp_path / "vcc.h5ad", *told), ad.read_h5ad(place / "a.h5ad")
    assert list(found.obs) == ["target_gene"] and not found.layers and sparse.issparse(found.X)
    assert found.X.dtype == np.float32 and list(found.var_names) == list(a.var_names)
    assert found.obs["target_gene"].value_counts().to_dict() == {"non-targeting": a.n_obs, name: a.n_obs}
    controls, counts = found[: a.n_obs].X.toarray(), a.layers["counts"].toarray()
    if head == "linear":
        counts = np.log1p(1e4 * counts / a.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(controls, counts, rtol=1e-5)
    assert found.X.min() >= 0 and abs(found[a.n_obs :].X.mean() / controls.mean() - 1) < 0.3
    again = vcc(folder.reopen(runs(head))[0].predict(a, name), a, "perturbation")
    np.testing.assert_array_equal(again.X.toarray(), found.X.toarray())


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path):
    path = written(tmp_path, n_cells=60, n_genes=20)
    for epochs in ("1", "2"):
        assert main(lines(path, tmp_path / "grown", *MODELS["bimamba"], "--epochs", epochs, model="bimamba")) == 0
    assert main(lines(path, tmp_path / "long", *MODELS["bimamba"], "--epochs", "2", model="bimamba")) == 0
    assert_same_results(tmp_path / "grown", tmp_path / "long")


def test_descriptors_from_a_table_are_read_again_and_predict_what_has_only_these(tmp_path):
    path = written(tmp_path, n_cells=60, n_genes=20)
    table = pd.DataFrame({"a": [1.0, 2.0, 5.0], "b": [0.0, 1.0, 1.0]}, ["day 1", "day 2", "day 9"])
    table.to_csv(tmp_path / "table.csv")
    more = ["--descriptors", str(tmp_path / "table.csv"), "--epochs", "1"]
    assert main(lines(path, tmp_path / "run", *MODELS["bimamba"], *more, model="bimamba")) == 0
    model, record = folder.reopen(tmp_path / "run")
    assert record["results"]["perturbations without a descriptor"] == 0
    features = model.conditions.features[[list(model.conditions.parts).index(name) for name in table.index]]
    torch.testing.assert_close(features[:2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert model.conditions.row("day 9").sum() == 1 and features[2].tolist() == [7.0, 1.0]


def test_whole_perturbations_are_held_out_and_judged_by_their_marks_alone(files, tmp_path, capsys):
    place, _ = files
    more = ["--annotation", str(place / "loci.csv"), "--hold-out", "perturbations", "--validation", "0.4"]
    assert main(lines(place / "train.h5ad", tmp_path / "run", *QUICK, *more, model="bimamba")) == 0
    said = capsys.readouterr().out
    model, record = folder.reopen(tmp_path / "run")
    known, found = record["results"], ad.read_h5ad(tmp_path / "run/profiles.h5ad")
    names = ad.read_h5ad(place / "train.h5ad").obs["perturbation"].astype(str)
    held_out = held_out_of(pd.Index(names), 0.4, 0, "perturbations", "control")
    assert sorted(set(names[held_out])) == sorted(found.obs_names) and not set(names[~held_out]) & set(found.obs_names)
    assert len(found) == 2 and record["cells"]["held out"] == held_out.sum()
    assert f"held-out R2 by gene {known['held-out R2 by gene']:.4f}; flattened" in said  # the last validation's
    assert not model.conditions.own.any()


def test_a_compound_that_is_held_out_needs_a_descriptor(files, tmp_path, capsys):
    place, _ = files
    cells = ad.read_h5ad(place / "train.h5ad")
    of = cells.obs["perturbation"].astype(str)
    cells.obs["perturbation"] = of.where(of == "control", "drug " + of)
    cells.write_h5ad(tmp_path / "drugs.h5ad")
    line = lines(
        tmp_path / "drugs.h5ad",
        tmp_path / "run",
        *QUICK,
        "--hold-out",
        "perturbations",
        "--validation",
        "0.4",
        model="bimamba",
    )
    assert main(line) == 1
    assert "is no gene of the sequence and has no descriptor" in capsys.readouterr().err


@HEADS
def test_the_same_command_runs_in_bf16(head, files, runs, tmp_path):
    """The scan stays in float32, and so do the weights; the rest of the network rounds to eight bits."""
    line = lines(files[0] / "train.h5ad", tmp_path / "run", *QUICK, "--head", head, model="bimamba")
    line += ["--annotation", str(files[0] / "loci.csv")]
    env = os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16"}  # as `accelerate launch --mixed_precision bf16` has it
    subprocess.run([sys.executable, "-m", "lab", *line], env=env, check=True, capture_output=True)
    losses = [pd.read_csv(run / "metrics.csv")["loss"].to_numpy() for run in (tmp_path / "run", runs(head))]
    np.testing.assert_allclose(*losses, rtol=0.01)
    assert (losses[0] != losses[1]).any()
    assert all(v.dtype == torch.float32 for v in folder.reopen(tmp_path / "run")[0].parameters())
