"""`embed`: cells stand where the run's model puts them, whatever the order of their genes."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import MODELS, QUICK, lines, simulated, written
from sklearn.neighbors import NearestCentroid

from lab.command import cells as command_cells
from lab.command import main
from lab.command.recipes import found


def embedded(run, cells, folder, *options, name="embedded.h5ad"):
    """What `embed` says of cells, an AnnData or a path."""
    if isinstance(cells, ad.AnnData):
        cells.write_h5ad(folder / f"of-{name}")
        cells = folder / f"of-{name}"
    assert main(["embed", str(run), str(cells), "--out", str(folder / name), *options]) == 0
    return ad.read_h5ad(folder / name)


def refused(run, cells, folder, capsys):
    cells.write_h5ad(folder / "cells.h5ad")
    assert main(["embed", str(run), str(folder / "cells.h5ad"), "--out", str(folder / "new.h5ad")]) == 1
    assert not (folder / "new.h5ad").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("model", [name for name, recipe in found().items() if recipe.embed])
def test_training_cells_stand_where_the_run_s_own_file_puts_them_to_the_bit(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    assert main(lines(path, tmp_path / "run", *MODELS[model], "--epochs", "2", model=model)) == 0
    latent = ad.read_h5ad(tmp_path / "run" / "latent.h5ad")
    new = embedded(tmp_path / "run", path, tmp_path)
    assert list(new.obsm) == list(latent.obsm) and list(new.obs_names) == list(latent.obs_names)
    for key in latent.obsm:
        np.testing.assert_array_equal(new.obsm[key], latent.obsm[key])


def test_genes_are_matched_by_name_and_cells_keep_their_order_and_obs(finished, tmp_path):
    path, run = finished
    cells, random = ad.read_h5ad(path), np.random.default_rng(0)
    more = cells[random.permutation(200)[:150], random.permutation(50)].copy()
    foreign = pd.DataFrame(index=[f"other-{i}" for i in range(7)])
    others = ad.AnnData(obs=more.obs, var=foreign, layers={"counts": random.poisson(9.0, (150, 7))})
    shuffled = ad.concat([others, more], axis=1, merge="same")[:, random.permutation(57)].copy()
    new = embedded(run, shuffled, tmp_path)
    latent = ad.read_h5ad(run / "latent.h5ad")
    np.testing.assert_allclose(new.obsm["X_vae"], latent[more.obs_names].obsm["X_vae"], rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(new.obs, shuffled.obs, check_categorical=False)


def test_cells_that_training_never_saw_stand_among_their_own_type(tmp_path):
    cells = simulated(300, 50)
    cells[:200].copy().write_h5ad(tmp_path / "cells.h5ad")
    options = [*MODELS["vae"], "--epochs", "60", "--lr", "0.005"]
    assert main(lines(tmp_path / "cells.h5ad", tmp_path / "run", *options)) == 0
    known = ad.read_h5ad(tmp_path / "run" / "latent.h5ad")
    new = embedded(tmp_path / "run", cells[200:].copy(), tmp_path)
    types = NearestCentroid().fit(known.obsm["X_vae"], known.obs["cell_type"])
    assert types.score(new.obsm["X_vae"], new.obs["cell_type"]) > 0.95


def test_a_few_missing_genes_are_named_and_count_as_zero(finished, tmp_path, capsys):
    path, run = finished
    cells, gone = ad.read_h5ad(path), ["gene-3", "gene-11", "gene-48"]
    new = embedded(run, cells[:, ~cells.var_names.isin(gone)].copy(), tmp_path)
    assert "3 of the 50 genes of the run" in (said := capsys.readouterr().out) and "(gene-3, gene-11, gene-48)" in said
    assert list(new.uns["embed"]["genes missing"]) == gone
    counts = cells.layers["counts"].toarray()
    counts[:, cells.var_names.isin(gone)] = 0
    cells.layers["counts"] = counts
    whole = embedded(run, cells, tmp_path, name="whole.h5ad")
    np.testing.assert_array_equal(new.obsm["X_vae"], whole.obsm["X_vae"])


@pytest.mark.parametrize("missing, status", [(5, 0), (6, 1)])
def test_more_than_a_tenth_of_the_genes_missing_is_refused(missing, status, finished, tmp_path):
    ad.read_h5ad(finished[0])[:, missing:].copy().write_h5ad(tmp_path / "cells.h5ad")
    line = ["embed", str(finished[1]), str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "new.h5ad")]
    assert main(line) == status and (tmp_path / "new.h5ad").exists() == (status == 0)


def test_names_of_another_kind_are_refused_with_the_column_that_has_the_right_ones(finished, tmp_path, capsys):
    cells = ad.read_h5ad(finished[0])
    cells.var["chromosome"], cells.var["symbol"] = "X", cells.var_names
    cells.var_names = [f"ENSG{i}" for i in range(50)]
    said = refused(finished[1], cells, tmp_path, capsys)
    assert "50 of the 50 genes" in said and "more than 10%" in said and "adata.var_names = adata.var['symbol']" in said


def test_a_subset_of_the_levels_keeps_the_codes_of_training(told, tmp_path):
    path, run = told
    cells, latent = ad.read_h5ad(path), ad.read_h5ad(run / "latent.h5ad")
    one = cells[cells.obs["batch"] == "day 2"].copy()
    new = embedded(run, one, tmp_path)
    np.testing.assert_allclose(new.obsm["X_vae"], latent[one.obs_names].obsm["X_vae"], rtol=1e-4, atol=1e-5)
    one.obs["batch"] = "day 0"
    moved = embedded(run, one, tmp_path, name="moved.h5ad")
    assert np.abs(moved.obsm["X_vae"] - new.obsm["X_vae"]).mean() > 0.01


def test_labels_that_training_did_not_have_are_refused(told, tmp_path, capsys):
    cells = ad.read_h5ad(told[0])
    cells.obs["batch"] = ["day 7", *cells.obs["batch"][1:]]
    assert "obs['batch'] holds 'day 7', a category that was not there in training" in refused(
        told[1], cells, tmp_path, capsys
    )
    del cells.obs["batch"]
    assert "obs has no column 'batch'" in refused(told[1], cells, tmp_path, capsys)


def test_counts_are_found_by_the_same_rule_and_it_is_recorded(finished, tmp_path, capsys):
    cells, latent = ad.read_h5ad(finished[0]), ad.read_h5ad(finished[1] / "latent.h5ad")
    x = ad.AnnData(cells.layers["counts"].toarray(), cells.obs, cells.var)
    new = embedded(finished[1], x, tmp_path)
    assert "counts from X" in capsys.readouterr().out and new.uns["embed"]["layer"] == "X"
    np.testing.assert_allclose(new.obsm["X_vae"], latent.obsm["X_vae"], rtol=1e-4, atol=1e-5)
    named = embedded(finished[1], finished[0], tmp_path, "--layer", "counts", name="named.h5ad")
    assert named.uns["embed"]["layer"] == "counts"


def test_a_set_is_embedded_by_its_name(tmp_path):
    assert main(lines("pbmc", tmp_path / "run", "--steps", "3", "--genes", "50", *QUICK)) == 0
    assert embedded(tmp_path / "run", "pbmc", tmp_path).shape[0] == 700


def test_cells_that_stay_on_disk_stand_where_they_do_in_memory(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(command_cells, "IN_MEMORY", 0)
    with monkeypatch.context() as here:
        here.setattr(ad, "read_h5ad", None)  # nothing may read the whole file
        assert main(["embed", str(finished[1]), str(finished[0]), "--out", str(tmp_path / "new.h5ad")]) == 0
    new, latent = ad.read_h5ad(tmp_path / "new.h5ad"), ad.read_h5ad(finished[1] / "latent.h5ad")
    np.testing.assert_allclose(new.obsm["X_vae"], latent.obsm["X_vae"], rtol=1e-4, atol=1e-5)
