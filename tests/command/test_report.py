"""`report`: the table of the book on two files, whatever place their counts have, and nothing of it lost in a file."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import simulated
from scipy import sparse

from lab import metrics
from lab.command import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files of simulated cells: for a model, held out, and as its samples; of the last, ten are copies."""
    folder, cells = tmp_path_factory.mktemp("files"), simulated(300, 30)
    samples = cells[200:].copy()
    samples.obs_names = [f"drawn-{i}" for i in range(100)]
    samples.layers["counts"] = sparse.vstack([cells.layers["counts"][:10], samples.layers["counts"][10:]], "csr")
    for name, some in (("train", cells[:100]), ("held-out", cells[100:200]), ("samples", samples)):
        some.copy().write_h5ad(folder / f"{name}.h5ad")
    return folder


def judged(files, out, *options, held_out=None, samples=None):
    """The table in the folder `out` after a line on these files."""
    words = [str(held_out or files / "held-out.h5ad"), str(samples or files / "samples.h5ad")]
    assert main(["report", *words, "--out", str(out), *options]) == 0
    return pd.read_csv(out / "report.csv", index_col=0)


def test_it_is_the_table_of_the_book_printed_written_and_drawn(files, tmp_path, capsys):
    told = ["--train", str(files / "train.h5ad"), "--label", "cell_type", "--seed", "5"]
    table = judged(files, tmp_path / "out", *told)
    train, real, samples = (ad.read_h5ad(files / f"{name}.h5ad") for name in ("train", "held-out", "samples"))
    expected = metrics.sample_report(real, samples, train=train, label="cell_type", seed=5)
    pd.testing.assert_frame_equal(table, expected, check_names=False)
    said = capsys.readouterr().out
    assert all(f"\n{row} " in said for row in table.index) and "100 real, 100 samples, 30 genes" in said
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert table.loc["copies", "value"] == 10, "equal values are counted, not refused"


def test_without_training_cells_and_labels_their_rows_are_not_there(files, tmp_path):
    table = judged(files, tmp_path / "out")
    assert not {"copies", "nearer to training", "accuracy on real cells"} & set(table.index)


def in_raw(cells):
    counts = cells.layers.pop("counts")
    cells.raw = ad.AnnData(counts, cells.obs, cells.var)
    cells.X = np.log1p(counts.toarray())


def in_x(cells):
    cells.X = cells.layers.pop("counts")


def among_others(cells):
    """Real cells have genes that a model was not trained on, and their own order."""
    names = {"var_names": [f"more-{i}" for i in range(7)]}
    more = ad.AnnData(obs=cells.obs, var=names, layers={"counts": sparse.csr_matrix(np.ones((cells.n_obs, 7)))})
    return ad.concat([more, cells], axis=1, merge="same")[:, ::-1].copy()


@pytest.mark.parametrize("change", [in_raw, in_x, among_others])
def test_counts_are_found_where_they_stand_and_genes_by_name(files, tmp_path, change):
    real = ad.read_h5ad(files / "held-out.h5ad")
    changed = change(real)
    (real if changed is None else changed).write_h5ad(tmp_path / "real.h5ad")
    one, other = judged(files, tmp_path / "a"), judged(files, tmp_path / "b", held_out=tmp_path / "real.h5ad")
    pd.testing.assert_frame_equal(one, other)


def test_files_without_counts_are_compared_as_they_stand(files, tmp_path, capsys):
    for name in ("held-out", "samples"):
        cells = ad.read_h5ad(files / f"{name}.h5ad")
        cells.X = np.log1p(cells.layers.pop("counts").toarray())
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    table = judged(tmp_path, tmp_path / "out")
    assert "no counts, X as it stands" in capsys.readouterr().out
    x = [ad.read_h5ad(tmp_path / f"{name}.h5ad").X for name in ("held-out", "samples")]
    pd.testing.assert_frame_equal(table, metrics.sample_report(*x), check_names=False)


def test_cells_drawn_under_a_label_are_said_to_stand_beside_others(files, tmp_path, capsys):
    samples = ad.read_h5ad(files / "samples.h5ad")
    samples.uns["sample"] = {"condition": {"cell_type": "A"}}
    samples.write_h5ad(tmp_path / "drawn.h5ad")
    real = ad.read_h5ad(files / "held-out.h5ad")
    others = int((real.obs["cell_type"] != "A").sum())
    judged(files, tmp_path / "mixed", samples=tmp_path / "drawn.h5ad")
    assert f"drawn as cell_type=A, which {others} of the real cells are not" in capsys.readouterr().out
    real[real.obs["cell_type"] == "A"].copy().write_h5ad(tmp_path / "a.h5ad")
    judged(files, tmp_path / "alike", held_out=tmp_path / "a.h5ad", samples=tmp_path / "drawn.h5ad")
    assert "are not" not in capsys.readouterr().out
