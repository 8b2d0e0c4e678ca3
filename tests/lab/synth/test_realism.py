"""The report on simulated counts: real halves pass, each planted fault shows in its row, and real cells are matched."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import linalg, sparse

from lab import data, synth
from lab.errors import Refused

ONE_KIND = {"effect": 0, "systematic": 0, "cis": 0, "n_targets": 2, "n_doubles": 0, "control": 0.9}


def controls(n_cells=2000, **knobs):
    """Control cells of a simulated screen."""
    cells = data.perturbseq(n_cells=n_cells, **ONE_KIND | knobs)
    return cells[cells.obs["control"].to_numpy() & (cells.obs["n_counts"] > 0).to_numpy()].copy()


@pytest.fixture(scope="module")
def cells():
    return controls()


def with_counts(cells, counts):
    return ad.AnnData(layers={"counts": sparse.csr_matrix(counts)}, obs=cells.obs[[]], var=cells.var[[]])


def simulated_as(known, **less):
    """Controls simulated from what was measured, `less` of it."""
    return controls(3000, **known | less, seed=1)


def test_other_cells_of_the_same_law_are_as_near_as_two_halves(cells):
    table = synth.realism_report(cells[::2].copy(), cells[1::2].copy())
    assert (table.loc[["library size", "genes detected", "gene mean", "gene variance"]] < 0.11).all(axis=None)
    assert (table.loc["classifier AUC"] - 0.5).abs().max() < 0.06
    assert (table.loc["neighbours mixed"] - 0.5).abs().max() < 0.03
    assert table.loc["zero fraction"].abs().max() < 0.01
    assert table.index.name == f"{len(cells) // 4} cells of each"


def poisson(cells, random):
    counts = cells.layers["counts"].toarray()
    return random.poisson(counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum())


def shuffled(cells, random):
    return random.permuted(cells.layers["counts"].toarray(), axis=0)


def deeper(cells, random):
    return 2 * cells.layers["counts"].toarray()


def emptied(cells, random):
    counts = cells.layers["counts"].toarray()
    return counts * (random.random(counts.shape) < 0.8) + (np.arange(counts.shape[1]) == counts.mean(0).argmax())


@pytest.mark.parametrize(
    "fault, rows",
    [
        (
            poisson,
            {"zero fraction": -0.01, "dispersion at a mean": 1, "cell-cell correlation": 0.3, "log10 variance": -0.15},
        ),
        (shuffled, {"library size": 0.15, "classifier AUC": 0.65}),
        (deeper, {"library size": 0.4, "gene mean": 0.05}),
        (emptied, {"zero fraction": 0.05, "genes detected": 0.3}),
    ],
)
def test_a_planted_fault_is_seen_in_its_row(cells, fault, rows):
    faulty = with_counts(cells, fault(cells, np.random.default_rng(0)))
    table = synth.realism_report(cells, faulty, size=500)
    for row, least in rows.items():
        assert table.loc[row, "value"] / least > 1 > table.loc[row, "null"] / least, row


def test_correlation_between_genes_is_seen_where_only_pairs_are_lost():
    tied = controls(4000, state=0.8, depth_std=0.1)
    counts = tied.layers["counts"].toarray()
    free = with_counts(tied, np.random.default_rng(0).permuted(counts, axis=0))
    table = synth.realism_report(tied, free, size=800)
    assert table.loc["gene-gene correlation", "value"] > 0.1 > table.loc["gene-gene correlation", "null"]
    assert table.loc["gene variance", "value"] < 0.05


def test_other_genes_leave_out_what_needs_the_same(cells):
    other = cells.copy()
    other.var_names = [f"other {name}" for name in other.var_names]
    table = synth.realism_report(cells, other, size=200)
    assert not {"classifier AUC", "neighbours mixed"} & set(table.index) and table["value"].notna().all()


def test_the_order_of_genes_does_not_matter(cells):
    turned, reports = cells[:, ::-1].copy(), []
    for other in (cells, turned):
        reports.append(synth.realism_report(cells, other, size=200))
    pd.testing.assert_frame_equal(*reports)


def test_what_was_planted_is_measured():
    random, names = np.random.default_rng(0), [f"gene {i}" for i in range(120)]
    expression = pd.DataFrame({"mean": np.exp(random.normal(0, 1, 120)), "phi": random.uniform(0.4, 1.2, 120)}, names)
    w = pd.DataFrame(0.3 * random.normal(0, 1, (120, 2)), names, ["a", "b"])
    how = {"expression": expression, "gene_sets": w, "state": 1, "cycle": 0, "batch_std": 0, "depth_std": 0.3}
    cells = controls(8000, **how)
    known = synth.measured(cells)
    mean, order = known["expression"]["mean"], known["expression"].index
    assert list(known["gene_sets"]) == ["module 1", "module 2"]
    np.testing.assert_allclose(mean, expression["mean"][order] * mean.sum() / expression["mean"].sum(), rtol=0.15)
    assert known["depth_std"] == pytest.approx(0.3, abs=0.03)
    assert np.median(known["expression"]["phi"] / expression["phi"][order]) == pytest.approx(1, abs=0.15)
    assert np.corrcoef(known["expression"]["phi"], expression["phi"][order])[0, 1] > 0.6
    angles = linalg.subspace_angles(known["gene_sets"].to_numpy(), (w - w.mean()).loc[order].to_numpy())
    assert np.degrees(angles).max() < 25  # of a random pair in 120 dimensions: above 80
    assert (known["gene_sets"] ** 2).sum().sum() == pytest.approx((w**2).sum().sum(), rel=0.3)


def test_cells_without_modules_are_measured_and_simulated_without():
    cells = controls(4000, state=0, cycle=0, batch_std=0)
    plain = synth.measured(cells)
    assert plain["gene_sets"] is None and plain["state"] == 0
    assert abs(synth.realism_report(cells, simulated_as(plain), size=500).loc["zero fraction", "value"]) < 0.01


def test_the_library_may_be_known_over_more_genes():
    cells = controls(4000, outside=0.98, depth=200, depth_std=0.4)
    cells.obs["n_counts"] = 50 * cells.obs["size"]
    known = synth.measured(cells)
    assert known["outside"] == pytest.approx(0.98, abs=0.005) and known["depth_std"] == pytest.approx(0.4, abs=0.03)


def test_correlation_and_genes_own_dispersions_bring_simulated_cells_nearer():
    own = controls(2000, state=0.8, dispersion=(0.6, -0.3, 0.8))
    known = synth.measured(own)
    plain = known | {"expression": known["expression"][["mean"]], "state": 0}
    whole, independent = (synth.realism_report(own, simulated_as(knobs))["value"] for knobs in (known, plain))
    assert whole["classifier AUC"] < independent["classifier AUC"] - 0.05
    assert whole[["library size", "genes detected"]].max() < 0.1 and abs(whole["zero fraction"]) < 0.01


def test_the_picture_shows_both_sets_in_six_panels(cells):
    fig = synth.picture(cells, controls(500))
    assert len(fig.axes) == 6 and all(len(ax.collections) == 2 for ax in fig.axes[:3])
    assert [text.get_text() for text in fig.axes[0].get_legend().texts] == ["real", "simulated"]
    plt.close(fig)


def test_too_few_cells_and_what_is_no_count_are_refused(cells):
    with pytest.raises(Refused, match="90 real and .* simulated cells are too few; give 100 and 50 or more"):
        synth.realism_report(cells[:90].copy(), cells)
    with pytest.raises(Refused, match="90 cells are too few to measure a gene's spread; give 100 or more"):
        synth.measured(cells[:90].copy())
    logged = cells.copy()
    logged.layers["counts"] = logged.X
    for call in (lambda: synth.realism_report(cells, logged), lambda: synth.measured(logged)):
        with pytest.raises(Refused, match="use raw integer counts"):
            call()


def not_empty(cells):
    """The cells that have a count."""
    return cells[np.asarray(cells.layers["counts"].sum(1)).ravel() > 0].copy()


def assert_accepted(table):
    """The figures that the simulator must reach against real cells."""
    assert table.loc[["library size", "genes detected"], "value"].max() < 0.1, table
    assert abs(table.loc["zero fraction", "value"]) < 0.01, table


@pytest.mark.real
def test_the_default_is_like_papalexis_controls_once_told_their_depth():
    controls_ = not_empty(data.papalexi([]))
    total = data.check_counts(controls_)
    for seed in range(3):
        like = controls(3000, n_genes=299, depth=total.mean(), depth_std=np.log(total).std(), seed=seed)
        assert_accepted(synth.realism_report(controls_, like, seed=seed))


@pytest.mark.real
@pytest.mark.parametrize(
    "name, some",
    [("papalexi", []), ("norman", None)],  # controls; of Norman's 100 are too few: all cells
)
def test_what_was_measured_makes_cells_like_real_ones_and_correlation_lowers_the_auc(name, some):
    cells = not_empty(getattr(data, name)(some))
    known = synth.measured(cells)
    cells = cells[:, known["expression"].index].copy()
    whole = synth.realism_report(cells, simulated_as(known))
    independent = synth.realism_report(
        cells, simulated_as(known | {"expression": known["expression"][["mean"]]}, state=0)
    )
    assert_accepted(whole)
    print(name, whole.join(independent["value"].rename("independent")).round(3), sep="\n")
    assert whole.loc["classifier AUC", "value"] < independent.loc["classifier AUC", "value"] - 0.03
