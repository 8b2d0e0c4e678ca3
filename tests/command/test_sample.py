"""`sample`: cells drawn from a run look like those it was trained on, in what they were asked to be."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import MODELS, QUICK, SETTINGS, lines, written
from scipy import stats

from lab.command import main
from lab.command.recipes import found


def drawn(run, out, *options):
    assert main(["sample", str(run), "--out", str(out), *options]) == 0
    return ad.read_h5ad(out)


def counts(cells):
    return cells.layers["counts"].toarray()


@pytest.fixture(scope="module")
def real_and_drawn(tmp_path_factory):
    """(training cells, 2,000 drawn ones) of a VAE that has come nearer to its end than `finished`."""
    folder = tmp_path_factory.mktemp("drawn")
    path = written(folder, n_cells=200, n_genes=50)
    long = [*SETTINGS, "--epochs", "200", "--lr", "0.01", "--patience", "200"]
    assert main(lines(path, folder / "run", *long)) == 0
    held_out = ad.read_h5ad(folder / "run" / "latent.h5ad").obs["held_out"].to_numpy()
    return ad.read_h5ad(path)[~held_out], drawn(folder / "run", folder / "new.h5ad", "--n", "2000")


def test_genes_have_the_means_of_training_cells_and_their_names(real_and_drawn):
    real, new = real_and_drawn
    assert new.shape == (2000, 50) and list(new.var_names) == list(real.var_names)
    ratio = np.log(counts(new).mean(0) / counts(real).mean(0))
    assert np.abs(ratio).max() < 0.4 and np.abs(ratio).mean() < 0.12  # of genes that differ twentyfold


def test_cells_are_counts_that_scatter_as_training_cells_do_and_not_means(real_and_drawn):
    real, new = real_and_drawn
    assert np.issubdtype(new.layers["counts"].dtype, np.integer) and new.X is None
    scatter = [counts(cells).var(0).sum() / counts(cells).mean(0).sum() for cells in (real, new)]
    assert scatter[1] == pytest.approx(scatter[0], rel=0.25) and scatter[0] > 3  # 1 for a Poisson around one mean


def test_depths_are_those_of_training_cells(real_and_drawn):
    real, new = real_and_drawn
    depth = np.log(counts(real).sum(1)).astype(np.float32)
    assert set(new.obs["log_library"]) <= set(depth)
    assert stats.ks_2samp(new.obs["log_library"], depth).pvalue > 0.001
    assert np.corrcoef(new.obs["log_library"], np.log(counts(new).sum(1)))[0, 1] > 0.5


def test_the_seed_fixes_the_cells_and_another_one_changes_them(finished, tmp_path):
    cells = []
    for i, seed in enumerate("557"):
        torch.rand(i)  # whatever the process has drawn before
        cells.append(drawn(finished[1], tmp_path / f"{i}.h5ad", "--samples", "300", "--seed", seed))
    first, same, other = map(counts, cells)
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.5
    assert len({row.tobytes() for row in first}) == 300


def test_the_file_says_where_it_is_from(told, tmp_path):
    new = drawn(told[1], tmp_path / "new.h5ad", "--n", "3", "--condition", "batch=day 1", "--seed", "4")
    origin = {"run": str(told[1]), "model": "cvae", "condition": {"batch": "day 1"}, "scale": 1.0, "seed": 4}
    assert new.uns["sample"] == origin


def test_a_condition_that_is_named_moves_its_genes_and_no_others(told, tmp_path):
    share = []
    for day in ("day 0", "day 1", "day 2"):
        new = drawn(told[1], tmp_path / f"{day}.h5ad", "--n", "1000", "--condition", f"batch={day}")
        assert (new.obs["batch"] == day).all()
        share.append(counts(new).sum(0) / counts(new).sum())
    odd = np.arange(50) % 2 == 1
    moved = np.log(share[1] / share[0])
    assert moved[odd].mean() - moved[~odd].mean() > 1.5  # log 10 = 2.3
    assert np.abs(np.log(share[2] / share[0])).mean() < 0.3


def test_depths_are_those_of_training_cells_with_the_level_that_is_named(told, tmp_path):
    """Day 1 is deeper: odd genes are tenfold."""
    depths = pd.read_csv(told[1] / "depths.csv", dtype={"log_library": np.float32})
    for code, day in enumerate(("day 0", "day 1")):
        new = drawn(told[1], tmp_path / f"{day}.h5ad", "--n", "200", "--condition", f"batch={day}")
        assert set(new.obs["log_library"]) <= set(depths["log_library"][depths["batch"] == code])


def test_levels_that_are_not_named_are_as_frequent_as_in_training_and_come_with_their_depth(tmp_path):
    def uneven(cells):
        cells.obs["batch"] = np.where(np.arange(cells.n_obs) < 160, "day 0", "day 1")

    path = written(tmp_path, uneven, n_cells=200, n_genes=50)
    options = ["--condition", "batch", "--condition", "cell_type"]
    assert main(lines(path, tmp_path / "run", *QUICK, *options, model="cvae")) == 0
    new, cells = drawn(tmp_path / "run", tmp_path / "new.h5ad", "--n", "2000"), ad.read_h5ad(path)
    held_out = ad.read_h5ad(tmp_path / "run" / "latent.h5ad").obs["held_out"].to_numpy()
    seen = cells.obs.assign(log_library=np.log(counts(cells).sum(1)).astype(np.float32))[~held_out]
    key = lambda obs: list(zip(obs["batch"].astype(str), obs["cell_type"].astype(str), obs["log_library"]))
    assert set(key(new.obs)) <= set(key(seen))  # jointly
    for column in ("batch", "cell_type"):
        frequency = [table[column].value_counts(normalize=True).sort_index() for table in (new.obs, seen)]
        np.testing.assert_allclose(frequency[0], frequency[1], atol=0.04)


@pytest.mark.parametrize("model", ["cvae", "ddpm"])
def test_a_condition_may_be_called_as_seurat_and_torch_call_theirs(model, tmp_path):
    def named(cells):
        cells.obs["orig.ident"] = cells.obs["type"] = cells.obs["cell_type"]

    path = written(tmp_path, named, n_cells=60)
    options = ["--condition", "orig.ident", "--condition", "type", "--epochs", "1", "--n-hidden", "8"]
    assert main(lines(path, tmp_path / "run", *options, model=model)) == 0
    wanted = ["--condition", "orig.ident=A", "--condition", "type=A", "--n", "20"]
    assert set(drawn(tmp_path / "run", tmp_path / "new.h5ad", *wanted).obs["orig.ident"]) == {"A"}


def test_levels_that_no_training_cell_has_together_are_drawn_with_the_depths_of_all(tmp_path, capsys):
    def nested(cells):
        cells.obs["batch"] = np.where(cells.obs["cell_type"] == "A", "day 0", "day 1")

    path = written(tmp_path, nested, n_cells=60)
    options = ["--condition", "batch", "--condition", "cell_type"]
    assert main(lines(path, tmp_path / "run", *QUICK, *options, model="cvae")) == 0
    wanted = ["--condition", "batch=day 1", "--condition", "cell_type=A", "--n", "300"]
    new = drawn(tmp_path / "run", tmp_path / "new.h5ad", *wanted)
    assert "no training cell has these levels together" in capsys.readouterr().out
    assert (new.obs["batch"] == "day 1").all() and (new.obs["cell_type"] == "A").all()
    depths = pd.read_csv(tmp_path / "run" / "depths.csv", dtype={"log_library": np.float32})
    assert set(new.obs["log_library"]) == set(depths["log_library"])


@pytest.mark.parametrize(
    "condition, words",
    [
        ("tissue=lung", "the model knows no condition 'tissue': it is told batch"),
        ("batch=day 9", "no training cell had batch 'day 9'; give one of: day 0, day 1, day 2"),
    ],
)
def test_a_condition_or_level_that_training_did_not_have_is_refused(condition, words, told, tmp_path, capsys):
    assert main(["sample", str(told[1]), "--out", str(tmp_path / "new.h5ad"), "--condition", condition]) == 1
    assert words in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_levels_that_are_no_text_are_named_by_their_text(tmp_path):
    def treated(cells):
        cells.obs["treated"] = np.arange(20) % 2 == 1
        cells.obs["lane"] = pd.Categorical(np.arange(20) % 3)

    path = written(tmp_path, treated)
    options = ["--condition", "treated", "--condition", "lane"]
    assert main(lines(path, tmp_path / "run", *QUICK, *options, model="cvae")) == 0
    wanted = ["--condition", "treated=True", "--condition", "lane=2", "--n", "5"]
    new = drawn(tmp_path / "run", tmp_path / "new.h5ad", *wanted)
    assert new.obs["treated"].astype(str).eq("True").all() and new.obs["lane"].astype(str).eq("2").all()


@pytest.mark.parametrize("model", [name for name, recipe in found().items() if recipe.sample])
def test_what_any_model_draws_can_be_trained_on(model, tmp_path):
    path = written(tmp_path, n_cells=60)
    assert main(lines(path, tmp_path / "run", *MODELS[model], "--epochs", "1", model=model)) == 0
    new = drawn(tmp_path / "run", tmp_path / "new.h5ad", "--n", "40")
    assert new.n_obs == 40
    again = lines(tmp_path / "new.h5ad", tmp_path / "again", *MODELS[model], "--epochs", "1", model=model)
    assert main(again) == 0
