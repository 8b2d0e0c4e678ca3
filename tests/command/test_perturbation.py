"""From a simulated screen in files to judged predictions: what `train` and `predict` do is what `lab.perturb` does."""

import functools
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import MODELS, TREATED, assert_same_results, lines, simulated, written
from safetensors.torch import load_file

from lab import data, perturb, vae
from lab.command import folder, main, perturb_codes
from lab.command.parts import gather
from lab.command.recipes import found
from lab.nets import Coordinates

SMALL = ["--n-hidden", "16", "--n-latent", "4"]
QUICK = ["--control", "none", "--epochs", "8", "--lr", "0.01", "--seed", "3"]
OPTIONS = {
    "scgen": [*SMALL, "--group", "batch"],
    "cpa": [*SMALL, "--dose", "dose", "--adversary", "5"],
    "gears": ["--n-hidden", "16", "--neighbours", "4"],
    "causal-vae": [*SMALL, "--epochs", "30"],  # it begins where all perturbations are alike
    "perturb-diffusion": ["--n-hidden", "16", "--coordinates", "6"],
    "perturb-flow": ["--n-hidden", "16", "--coordinates", "6"],
}
METHODS = pytest.mark.parametrize("method", OPTIONS)


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A folder of files: `train` (controls A, "none", by the alphabet after all others, and perturbed cells), `a`, `b`,
    `perturbed` and `truth`, two pairs whose parts occur in train; and the names of these."""
    folder = tmp_path_factory.mktemp("screen")
    cells = data.perturbseq(n_genes=80, n_cells=800, control=0.2)
    control = (cells.obs["perturbation"] == "control").to_numpy()
    cells.obs["perturbation"] = np.where(control, "none", cells.obs["perturbation"].astype(str))
    cells.obs["dose"] = np.where(control, 0.0, np.resize([0.5, 1.0, 2.0], cells.n_obs))
    a, b = perturb.control_halves(cells[control].copy())
    pairs = sorted(name for name in cells.obs["perturbation"].unique() if "+" in name)
    known, truth = perturb.hold_out(cells[~control].copy(), test=pairs[:2])
    for name, part in {"a": a, "b": b, "perturbed": known, "truth": truth, "train": ad.concat([a, known])}.items():
        part.write_h5ad(folder / f"{name}.h5ad")
    return folder, pairs[:2]


@pytest.fixture(scope="module")
def runs(screen):
    """Method -> its finished run on these."""

    @functools.cache
    def run(method):
        line = lines(screen[0] / "train.h5ad", screen[0] / method, *QUICK, *OPTIONS[method], model=method)
        assert main(line) == 0
        return screen[0] / method

    return run


def predicted(run, cells, out, *names, **conditions):
    pairs = [("perturbation", name) for name in names] + list(conditions.items())
    asked = [word for name, value in pairs for word in ("--condition", f"{name}={value}")]
    assert main(["predict", str(run), str(cells), "--out", str(out), *asked]) == 0
    return ad.read_h5ad(out)


def values(cells):
    return cells.layers["counts"].toarray() if "counts" in cells.layers else cells.X


@METHODS
def test_from_files_to_judged_predictions_of_pairs_that_no_training_cell_has(method, screen, runs, tmp_path, capsys):
    files, pairs = screen
    predicted(runs(method), files / "a.h5ad", out := tmp_path / "predicted.h5ad", *pairs)
    sides = ["--control", str(files / "a.h5ad"), "--truth-control", str(files / "b.h5ad")]
    known = ["--train", str(files / "perturbed.h5ad")]
    assert main(["evaluate", str(out), str(files / "truth.h5ad"), *sides, *known, "--out", str(tmp_path / "out")]) == 0
    assert "medians over 2 perturbations, of 80 genes" in capsys.readouterr().out
    report = pd.read_csv(tmp_path / "out" / "report.csv", index_col=[0, 1])["median"]
    shift = "delta-correlation (control)"
    assert report[shift, "model"] > 0.1 and report[shift, "ceiling"] > report[shift, "model"]
    a, b, train, truth = (ad.read_h5ad(files / f"{name}.h5ad") for name in ("a", "b", "perturbed", "truth"))
    scores = perturb.evaluate(ad.read_h5ad(out), truth, control=a, truth_control=b, train=train)
    assert report["MSE", "model"] == pytest.approx(perturb.at_a_glance(scores).loc["MSE", "model"])


@METHODS
def test_a_pair_is_the_same_in_either_order_and_genes_are_matched_by_name(method, screen, runs, tmp_path):
    files, (pair, _) = screen
    one = predicted(runs(method), files / "a.h5ad", tmp_path / "one.h5ad", pair)
    ad.read_h5ad(files / "a.h5ad")[:, ::-1].copy().write_h5ad(tmp_path / "turned.h5ad")
    turned = "+".join(pair.split("+")[::-1])
    other = predicted(runs(method), tmp_path / "turned.h5ad", tmp_path / "other.h5ad", turned)
    assert set(other.obs["perturbation"]) == {turned} != {pair} and list(other.var_names) == list(one.var_names)
    np.testing.assert_array_equal(values(one), values(other))
    assert list(one.uns["predict"]["condition"]) == [f"perturbation={pair}"]


@METHODS
def test_genes_that_controls_lack_count_as_zero(method, screen, runs, tmp_path, capsys):
    files, (pair, _) = screen
    a = ad.read_h5ad(files / "a.h5ad")
    a[:, 3:].copy().write_h5ad(tmp_path / "less.h5ad")
    less = predicted(runs(method), tmp_path / "less.h5ad", tmp_path / "one.h5ad", pair)
    assert "3 of the 80 genes of the run" in capsys.readouterr().out
    counts = a.layers["counts"].toarray()
    counts[:, :3] = 0
    a.layers["counts"] = counts
    a.write_h5ad(tmp_path / "zero.h5ad")
    zero = predicted(runs(method), tmp_path / "zero.h5ad", tmp_path / "other.h5ad", pair)
    np.testing.assert_array_equal(values(less), values(zero))


@METHODS
def test_more_epochs_continue_a_run_to_the_weights_and_results_of_one_long_run(method, tmp_path):
    path = written(tmp_path, n_cells=60)
    for out, epochs in (("grown", "1"), ("grown", "3"), ("long", "3")):
        assert main(lines(path, tmp_path / out, *MODELS[method], "--epochs", epochs, model=method)) == 0
    assert_same_results(tmp_path / "grown", tmp_path / "long")


def by_library(method, files, run):
    """The method of `lab.perturb`, begun from the run's training cells, with the run's weights; the cells held out, and
    the number of the others."""
    asked = json.loads((run / "run.json").read_text())["arguments"]
    cells = gather(str(files / "train.h5ad"), asked, found()[method].columns)
    known, weights = cells.adata[~cells.held_out].copy(), load_file(run / "model.safetensors")
    control = known[(known.obs["perturbation"] == "none").to_numpy()].copy()
    held_out, none = cells.adata[cells.held_out].copy(), {"control": "none"}
    design = perturb.Design(known, dose="dose" if method == "cpa" else None, **none)
    count_vae = vae.count_vae(80, 4, 16)
    if method == "scgen":
        count_vae.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("vae.")})
        return perturb.LatentArithmetic(count_vae, known, group="batch", **none), held_out, len(known)
    if method == "gears":
        model = perturb.GEARS(known, perturb.coexpression_graph(control, 4), n_hidden=16, **none)
        weights.pop("full")
        for name in ("messages", "start", "of_label"):
            torch.testing.assert_close(weights[name], model.state_dict()[name], rtol=1e-5, atol=1e-6)
    elif method.startswith("perturb"):
        coordinates, cls = Coordinates(80, 6).fit(known.layers["counts"]), type(folder.reopen(run)[0])
        torch.testing.assert_close(weights["coordinates.axes"], coordinates.axes, rtol=1e-3, atol=1e-4)
        source = [np.resize(np.arange(control.n_obs), 2000)] if method == "perturb-flow" else []
        controls = [control.layers["counts"][rows] for rows in source]
        model = cls(design, coordinates, *controls, n_hidden=16)
    else:
        model = perturb.CPA(design, count_vae) if method == "cpa" else perturb.SparseShifts(design, count_vae)
    model.load_state_dict(weights)
    return model.eval(), held_out, len(known)


@METHODS
def test_a_prediction_is_the_library_s_own_of_the_training_cells_with_the_run_s_weights(method, screen, runs, tmp_path):
    files, pairs = screen
    new = predicted(runs(method), files / "a.h5ad", tmp_path / "new.h5ad", *pairs, "none")
    model, *_ = by_library(method, files, runs(method))
    same = perturb.predict(model, ad.read_h5ad(files / "a.h5ad"), [*pairs, "none"])
    assert list(new.obs_names) == list(same.obs_names) and list(new.obs["n_counts"]) == list(same.obs["n_counts"])
    if method == "scgen":  # its codes were taken in minibatches
        apart = values(new) != values(same)
        assert apart.mean() < 0.01
    else:
        np.testing.assert_allclose(values(new), values(same), rtol=1e-5, atol=1e-5)


def test_a_flow_begins_at_every_training_control_about_as_often(screen, runs):
    files, _ = screen
    run = runs("perturb-flow")
    asked = json.loads((run / "run.json").read_text())["arguments"]
    cells = gather(str(files / "train.h5ad"), asked, found()["perturb-flow"].columns)
    control = cells.adata[~cells.held_out & (cells.adata.obs["perturbation"] == "none").to_numpy()]
    model, _ = folder.reopen(run)
    z = model.coordinates(control.layers["counts"])
    nearest = torch.cdist(model.source, z)
    assert nearest.min(1).values.max() < 1e-2 and len(model.source) == 2000
    often = nearest.argmin(1).bincount(minlength=len(z))
    assert often.min() >= 2000 // len(z) and often.max() <= 2000 // len(z) + 1


@METHODS
def test_the_held_out_loss_is_the_library_s_and_that_which_stopped_the_training(method, screen, runs):
    record, seen = json.loads((runs(method) / "run.json").read_text()), pd.read_csv(runs(method) / "metrics.csv")
    model, cells, n = by_library(method, screen[0], runs(method))
    b = next(iter(model.design.loader(cells, shuffle=False)))
    nobody = lambda z: torch.zeros(len(z), len(model.design.labels))
    losses = {
        "scgen": lambda: vae.loss(model.space, b),
        "cpa": lambda: perturb.cpa.loss(model, nobody, b, strength=0.0),
        "gears": lambda: perturb.gears.loss(model, b),
        "causal-vae": lambda: perturb.mechanisms.loss(model, b, n_cells=n),
        "perturb-diffusion": lambda: perturb.transport.diffusion_loss(model, b),
        "perturb-flow": lambda: perturb.transport.flow_loss(model, b),
    }
    torch.manual_seed(0)
    said = record["results"]["held-out loss"]
    assert said == pytest.approx(seen["val_loss"].min(), rel=1e-4)
    if method != "perturb-flow":  # whose source stands in another order
        assert said == pytest.approx(losses[method]()["loss"].item(), rel=1e-4)
    assert record["conditions"]["perturbation"][0] == "none"


def test_codes_are_found_without_labels_and_a_causal_one_only_with_them(screen, runs, tmp_path, capsys):
    files, _ = screen
    cells = ad.read_h5ad(files / "truth.h5ad")  # pairs that no training cell has
    for method in ("scgen", "cpa", "causal-vae"):
        line = ["embed", str(runs(method)), str(files / "truth.h5ad"), "--out", str(tmp_path / f"{method}.h5ad")]
        assert main(line) == (method == "causal-vae")
    assert "a category that was not there in training" in capsys.readouterr().err
    model, b = folder.reopen(runs("cpa"))[0], data.minibatch(cells)
    z = ad.read_h5ad(tmp_path / "cpa.h5ad").obsm["X_vae"]
    np.testing.assert_allclose(z, model.vae.posterior(b["x"], b).mean.detach(), rtol=1e-4, atol=1e-5)


def test_a_dose_of_one_is_none_given_and_another_is_another_and_is_written(screen, runs, tmp_path):
    a, (pair, _), run = screen[0] / "a.h5ad", screen[1], runs("cpa")
    plain = predicted(run, a, tmp_path / "plain.h5ad", pair)
    one, none = (predicted(run, a, tmp_path / f"{dose}.h5ad", pair, dose=dose) for dose in ("1", "0"))
    np.testing.assert_array_equal(values(plain), values(one))
    np.testing.assert_array_equal(values(none), values(predicted(run, a, tmp_path / "control.h5ad", "none")))
    assert (values(one) != values(none)).any()
    assert (one.obs["dose"] == 1).all() and (none.obs["dose"] == 0).all() and "dose" not in plain.obs


def test_where_the_model_goes_down_its_adversary_goes_up_by_the_gradients_of_one_loss(screen):
    cells = ad.read_h5ad(screen[0] / "train.h5ad")
    torch.manual_seed(0)
    model = perturb.CPA(perturb.Design(cells, control="none"), vae.count_vae(80, 4, 16))
    loss, b = perturb_codes.Adversarial(model, 7.0).train(), next(iter(model.design.loader(cells)))
    networks = [*model.parameters()], [*loss.adversary.parameters()]
    torch.manual_seed(1)
    ours = [torch.autograd.grad(loss(b)["loss"], of, retain_graph=True) for of in networks[:1]]
    loss(b)["loss"].backward()
    turned = [p.grad.clone() for p in networks[1]]
    torch.manual_seed(1)
    plain = torch.autograd.grad(perturb.cpa.loss(model, loss.adversary, b, strength=7.0)["loss"], networks[0])
    assert all(torch.equal(one, other) for one, other in zip(ours[0], plain))
    told = lambda: (torch.manual_seed(2), perturb.cpa.adversary_loss(loss.adversary, model, b)["loss"])[1]
    before = told()
    with torch.no_grad():
        for p, grad in zip(networks[1], turned):
            p -= 1e-3 * grad
    assert told() < before
    torch.manual_seed(4)
    held_out = loss.eval()(b)["loss"]
    torch.manual_seed(4)
    assert held_out == perturb_codes.cpa_loss(model, b)["loss"]


def test_a_new_classifier_finds_labels_in_codes_that_no_adversary_has_emptied(tmp_path):
    told = {}
    for weight in ("0", "100"):
        path = written(tmp_path, treated, n_cells=400, n_genes=50)
        line = lines(path, tmp_path / weight, *TREATED, *SMALL, "--adversary", weight, model="cpa")
        assert main([*line, "--epochs", "60", "--lr", "0.01"]) == 0
        said = json.loads((tmp_path / weight / "run.json").read_text())["results"]
        told[weight] = said["labels told from basal codes"] - said["by chance"]
        assert said["by chance"] == pytest.approx(1 / 3)
    assert told["0"] > 0.3 and told["100"] < told["0"] / 2


def treated(cells):
    """On days 1 and 2 every third gene is tripled, another third each day."""
    counts = cells.layers["counts"].toarray()
    for day in (1, 2):
        counts[np.ix_(cells.obs["batch"] == f"day {day}", np.arange(cells.n_vars) % 3 == day)] *= 3
    cells.layers["counts"] = counts


def test_masks_close_at_the_learning_rate_that_a_causal_vae_begins_with(tmp_path):
    path = written(tmp_path, treated, n_cells=300, n_genes=50)
    line = lines(path, tmp_path / "run", *TREATED, *SMALL, "--epochs", "100", "--patience", "100", model="causal-vae")
    assert main(line) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["lr"] == 0.01
    model, _ = folder.reopen(tmp_path / "run")
    assert record["results"]["share of masks open"] == pytest.approx((model.logits > 0).float().mean().item())
    assert record["results"]["share of masks open"] < 0.7 and model.logits.abs().max() > 0.5


def test_a_causal_vae_s_code_of_zero_begins_at_the_mean_profile_of_training_cells(screen, runs):
    """To within what a random hidden layer adds; from a bias of 0, log rates are off by as much as genes differ."""
    asked = json.loads((runs("causal-vae") / "run.json").read_text())["arguments"]
    cells = gather(str(screen[0] / "train.h5ad"), asked, found()["causal-vae"].columns)
    torch.manual_seed(0)
    model = found()["causal-vae"].build(cells.known(), asked)
    counts = cells.adata.layers["counts"][~cells.held_out].sum(0).A1 + 0.5
    log_rates = model.decoder.net(torch.zeros(4)).detach().numpy()
    assert np.std(log_rates - np.log(counts)) < 0.4 < 0.8 < np.std(np.log(counts))


def test_a_graph_of_gene_sets_reaches_targets_that_are_not_measured(tmp_path, capsys):
    def named(cells):
        cells.obs["batch"] = cells.obs["batch"].map({"day 0": "control", "day 1": "gene-3", "day 2": "TF"})

    path = written(tmp_path, named, n_cells=60)
    sets = {"one": ["gene-3", "TF", "gene-5"], "two": ["TF", "gene-5"], "three": ["gene-7", "gene-8"]}
    (tmp_path / "sets.gmt").write_text("".join(f"{name}\tof\t" + "\t".join(of) + "\n" for name, of in sets.items()))
    run = ["--by", "batch", "--control", "control", "--epochs", "1", "--neighbours", "2"]
    for out, graph in {"sets": ["--graph", str(tmp_path / "sets.gmt")], "together": []}.items():
        assert main(lines(path, tmp_path / out, *run, *graph, model="gears")) == 0
        assert "1 of 2 perturbations are no genes that are modelled (first: 'TF')" in capsys.readouterr().out
    genes = [*(f"gene-{i}" for i in range(10)), "TF"]
    model, _ = folder.reopen(tmp_path / "sets")
    assert model.genes == genes
    graph = perturb.gene_set_graph(data.programmes(genes, tmp_path / "sets.gmt"), 2).to_numpy()
    np.testing.assert_array_equal(model.messages.numpy() > 0, graph + np.eye(11) > 0)
    alone = folder.reopen(tmp_path / "together")[0].messages[10]
    assert alone[10] == 1 and alone.sum() == 1
    cells = simulated(60, 10)
    cells[(cells.obs["batch"] == "day 0").to_numpy()].copy().write_h5ad(tmp_path / "a.h5ad")
    new = ["predict", str(tmp_path / "sets"), str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "new.h5ad")]
    assert main([*new, "--condition", "batch=gene-9+TF"]) == 1
    assert "60" not in capsys.readouterr().out


def test_another_mark_between_parts_is_known_to_the_judge_too(screen, tmp_path):
    files, pairs = screen
    for name in ("train", "truth"):
        cells = ad.read_h5ad(files / f"{name}.h5ad")
        cells.obs["target"] = cells.obs.pop("perturbation").astype(str).str.replace("+", "|", regex=False)
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    words = ["--by", "target", "--separator", "|"]
    line = lines(tmp_path / "train.h5ad", tmp_path / "run", *QUICK, *words, *SMALL, "--epochs", "1", model="scgen")
    assert main(line) == 0
    asked = [word for pair in pairs for word in ("--condition", f"target={pair.replace('+', '|')}")]
    a = files / "a.h5ad"
    assert main(["predict", str(tmp_path / "run"), str(a), "--out", str(tmp_path / "p.h5ad"), *asked]) == 0
    sides = ["--control", str(a), "--truth-control", str(files / "b.h5ad"), "--train", str(tmp_path / "train.h5ad")]
    judged = ["evaluate", str(tmp_path / "p.h5ad"), str(tmp_path / "truth.h5ad"), *sides, *words]
    assert main([*judged, "--out", str(tmp_path / "out")]) == 0
    rows = pd.read_csv(tmp_path / "out" / "report.csv")["row"]
    assert "additive" in set(rows)
