"""The report on samples: real cells pass for real nine times in ten, and each planted fault is seen in its row."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from lab import data, metrics
from lab.data import toys
from lab.errors import Refused


@pytest.fixture(scope="module")
def blood():
    """Real cells in three parts: for a model, held out, and a second held-out part that plays the samples."""
    return data.split(data.pbmc(), (0.4, 0.3, 0.3), seed=0)  # stratified parts are closer than two samples are


def report(real, samples, **how):
    return metrics.sample_report(real, samples, label="cell_type", **how)


def test_about_one_row_in_ten_of_real_cells_falls_outside_what_real_cells_span(blood):
    cells, outside = data.pbmc(), []
    for seed in range(20):
        real, samples = data.split(cells, (0.5, 0.5), seed=seed)
        table = metrics.sample_report(real, samples, seed=seed, size=80)
        outside.append(table["verdict"] != "as real cells")
    share = pd.DataFrame(outside).mean()
    assert 0.03 < share.mean() < 0.17, share  # twenty halvings of eleven rows, which are not independent
    assert (share <= 0.35).all(), share  # 7 of 20, where 2 are expected, has a chance of 2 in 1,000 a row


def test_twenty_planted_copies_are_found_and_copies_of_all_are_nearer_to_training(blood):
    train, real, samples = blood
    planted = samples.copy()
    planted.layers["counts"][:20] = train.layers["counts"][:20]
    table = report(real, planted, train=train)
    assert table.loc["copies", "value"] == 20 and table.loc["copies", "verdict"] != "as real cells"
    memory = train[:200].copy()
    memory.obs_names = [f"made {i}" for i in range(200)]
    table = report(real, memory, train=train)
    assert table.loc["copies", "value"] == 200 and table.loc["nearer to training", "value"] > 0.8
    assert (table.loc[["copies", "nearer to training"], "verdict"] != "as real cells").all()


def test_real_cells_as_samples_have_learned_nothing_by_heart_and_the_floor_is_told_from_them(blood):
    train, real, samples = blood
    table = report(real, samples, train=train)
    assert (table["verdict"] == "as real cells").mean() > 0.7
    assert table.loc["copies", "value"] == 0 and 0.35 < table.loc["nearer to training", "value"] < 0.65
    outside = (table["floor"] < table["low"]) | (table["floor"] > table["high"])
    assert outside[["classifier AUC", "co-expression"]].all()
    assert table.loc["classifier AUC", "floor"] > 0.7


def test_the_floor_is_fitted_to_the_cells_of_the_model_and_not_to_those_that_judge_it(blood):
    train, real, samples = blood
    some = train[train.obs["cell_type"].isin(["dendritic", "CD14 monocyte"])].copy()
    floors = pd.DataFrame(
        {n: report(real, samples, train=cells)["floor"] for n, cells in (("all", train), ("two", some))}
    )
    assert floors.loc["recall", "two"] < 0.35 < 0.55 < floors.loc["recall", "all"]
    assert floors.loc["energy distance", "two"] > 3 and 0.1 < floors.loc["energy distance", "all"] < 1


def dealt(cells):
    """Each gene's counts dealt anew among all cells: means and spreads stay, co-expression goes."""
    counts = np.random.default_rng(0).permuted(cells.layers["counts"].toarray(), axis=0)
    return ad.AnnData(cells.X, obs=cells.obs, var=cells.var, layers={"counts": counts})


def relabelled(cells):
    obs = cells.obs.assign(cell_type=cells.obs["cell_type"].to_numpy()[::-1])
    return ad.AnnData(cells.X, obs=obs, var=cells.var, layers=cells.layers)


FAULTS = {  # what is done to real cells, and the rows that must see it
    "one type only": (
        lambda c: c[c.obs["cell_type"] == "dendritic"].copy(),
        ["recall", "diversity", "energy distance"],
    ),
    "genes dealt anew": (dealt, ["co-expression", "diversity", "classifier AUC"]),
    "other labels": (relabelled, ["accuracy on real cells"]),
    "a fifth of the depth": (lambda c: data.thin(c, 0.2), ["gene means", "classifier AUC"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen_in_its_row(blood, fault):
    _, real, samples = blood
    spoil, rows = FAULTS[fault]
    table = report(real, spoil(samples))
    assert (table.loc[rows, "verdict"] != "as real cells").all(), table


def test_components_of_one_side_alone_tell_two_halves_of_the_same_cells_apart():
    """Fitted on one side they fit its noise; the other side is then narrower."""
    from sklearn.decomposition import PCA

    one, two = (a.X.toarray() for a in data.split(data.pbmc(), (0.5, 0.5), seed=0))
    fitted = PCA(50, random_state=0).fit(one)
    unfair = metrics.classifier_test(fitted.transform(one), fitted.transform(two)).auc
    fair = metrics.classifier_test(*metrics.components(one, two, 50)).auc
    assert unfair > 0.9 and abs(fair - 0.5) < 0.1


def test_arrays_without_counts_are_reported_on_with_a_gaussian_floor():
    toy = toys.gaussian_mixture()
    real, samples, other = (toy.sample(400, seed=seed) for seed in range(3))
    table = metrics.sample_report(real.X, samples.X, train=other.X)
    assert "programmes" not in table.index and table.loc["energy distance", "verdict"] == "as real cells"
    assert table.loc["energy distance", "floor"] > table.loc["energy distance", "high"]


def test_few_real_cells_are_halved_however_many_samples_there_are():
    toy = toys.gaussian_mixture()
    real, train = (toy.sample(n, seed=n).X for n in (60, 80))
    for samples in (toy.sample(900, seed=1).X, toy.sample(900, seed=2).X):  # shares would be 3 and 56
        assert metrics.sample_report(real, samples).index.name == "30 real, 30 samples"
    table = metrics.sample_report(real, samples, train=train)
    assert table.index.name == "60 real, 60 samples" and table.notna().all(axis=None)


def test_the_same_seed_gives_the_same_table(blood):
    _, real, samples = blood
    one, two = (metrics.sample_report(real, samples, size=60, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    "spoil, word",
    [
        (lambda real, samples: (real, samples[:, 1:].copy()), "is missing"),
        (lambda real, samples: (real, ad.AnnData(samples.X, obs=samples.obs, var=samples.var)), "one scale"),
        (lambda real, samples: (real, ad.AnnData(samples.X, var=samples.var, layers=samples.layers)), "no column"),
        (lambda real, samples: (real[:10].copy(), samples), "say nothing"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused_in_words(blood, spoil, word):
    with pytest.raises(Refused, match=word):
        report(*spoil(*blood[1:]))


def test_cells_that_the_model_has_seen_are_no_real_cells_and_counts_are_no_expression(blood):
    train, real, samples = blood
    with pytest.raises(Refused, match="stand in real and in train"):
        report(train, samples, train=train)
    x = real.X.toarray()
    with pytest.raises(Refused, match="whole numbers"):
        metrics.sample_report(x, np.round(x))
    x[0, 0] = np.nan
    with pytest.raises(Refused, match="NaN"):
        metrics.sample_report(x, real.X.toarray())
