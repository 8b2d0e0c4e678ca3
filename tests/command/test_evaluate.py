"""`evaluate`: the judge of the book on files, whatever place their counts have, and nothing of it lost on the way."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screens import screen, unchanged

from lab import perturb
from lab.command import main

NAMES = ["G1", "G2", "G3", "G4", "G1+G2", "G3+G4", "G5"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A screen in five files, the prediction other cells of the same law; gene sets and features."""
    folder, s = tmp_path_factory.mktemp("files"), screen(names=NAMES, effect=0.6, genes=60, cells=60, replicates=4)
    train, truth = perturb.hold_out(s.cells, test=["G1+G2", "G3+G4", "G5"])
    again = screen(names=NAMES, effect=0.6, genes=60, cells=20).cells
    predicted = again[again.obs["perturbation"].isin(set(truth.obs["perturbation"]))].copy()
    predicted.obs_names = [f"drawn-{i}" for i in range(predicted.n_obs)]
    for name, cells in (("predicted", predicted), ("truth", truth), ("a", s.a), ("b", s.b), ("train", train)):
        cells.write_h5ad(folder / f"{name}.h5ad")
    unchanged(screen(names=sorted(set(truth.obs["perturbation"])), genes=60)).write_h5ad(folder / "means.h5ad")
    sets = [f"set-{i}\tof genes\t" + "\t".join(f"G{g}" for g in range(i, 60, 6)) for i in range(6)]
    (folder / "sets.gmt").write_text("\n".join(sets) + "\n")
    has = [[int(part in name.split("+")) for part in NAMES[:4]] for name in NAMES]
    pd.DataFrame(has, NAMES, NAMES[:4]).to_csv(folder / "features.csv")
    return folder


def line(files, out, *more, predicted="predicted", truth="truth"):
    sides = ["--control", str(files / "a.h5ad"), "--truth-control", str(files / "b.h5ad"), "--out", str(out)]
    return ["evaluate", str(files / f"{predicted}.h5ad"), str(files / f"{truth}.h5ad"), *sides, *more]


def test_it_is_the_judge_of_the_book_printed_written_and_drawn(files, tmp_path, capsys):
    told = {"train": "train.h5ad", "gene-sets": "sets.gmt", "features": "features.csv"}
    options = [word for name, file in told.items() for word in (f"--{name}", str(files / file))]
    assert main(line(files, tmp_path / "out", *options, "--seed", "5", "--replicate", "donor")) == 0
    said = capsys.readouterr().out
    predicted, truth, a, b, train = (
        ad.read_h5ad(files / f"{n}.h5ad") for n in ("predicted", "truth", "a", "b", "train")
    )
    sets = pd.DataFrame({f"set-{i}": [int(g % 6 == i) for g in range(60)] for i in range(6)}, truth.var_names)
    features = pd.read_csv(files / "features.csv", index_col=0)
    how = {"train": train, "gene_sets": sets, "features": features, "seed": 5, "replicate": "donor"}
    scores = perturb.evaluate(predicted, truth, control=a, truth_control=b, **how)
    report = pd.read_csv(tmp_path / "out" / "report.csv", index_col=[0, 1])
    pd.testing.assert_frame_equal(report, perturb.summary(scores), check_names=False)
    each = pd.read_csv(tmp_path / "out" / "perturbations.csv").set_index(["metric", "row", "perturbation"])
    mean = scores.groupby(["metric", "row", "perturbation"], observed=True)["value"].mean()
    np.testing.assert_allclose(each["value"], mean)
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert all(f"\n{metric} " in said for metric in perturb.METRICS)
    assert "one mean for all perturbations beats the model in: nothing" in said
    assert "medians over 3 perturbations, of 60 genes, baselines over 20 splits of controls" in said


def test_a_model_that_predicts_no_change_is_told_what_one_mean_wins(files, tmp_path, capsys):
    assert main(line(files, tmp_path / "out", predicted="means")) == 0
    said = capsys.readouterr().out
    assert "E-distance" not in said and "note: pathways: no gene sets given" in said
    assert "note: without train, each baseline learned from the other perturbations of truth" in said
    assert "one mean for all perturbations beats the model in:" in said


def test_counts_are_found_where_they_stand_and_a_column_by_its_name(files, tmp_path):
    def in_x(name):
        cells = ad.read_h5ad(files / f"{name}.h5ad")
        cells.X = cells.layers.pop("counts")
        cells.obs = cells.obs.rename(columns={"perturbation": "target"})
        cells[:, ::-1].copy().write_h5ad(tmp_path / f"{name}.h5ad")

    for name in ("predicted", "truth", "a", "b"):
        in_x(name)
    assert main(line(files, tmp_path / "one")) == 0
    assert main(line(tmp_path, tmp_path / "two", "--perturbation", "target")) == 0
    one, two = (pd.read_csv(tmp_path / out / "report.csv", index_col=[0, 1]) for out in ("one", "two"))
    apart = (one - two).loc[[m for m in perturb.METRICS[:6] if m in one.index]].abs()
    assert len(apart) and apart.max().max() < 1e-3
