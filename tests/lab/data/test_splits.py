"""Splits are partitions, whole by group and even by category; the guards catch what leaks."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from lab import data
from lab.errors import Refused


def test_a_split_is_a_partition_and_reproducible(cells):
    parts = data.split(cells, (0.7, 0.2, 0.1), seed=3)
    assert [part.n_obs for part in parts] == [490, 140, 70]
    assert sorted(sum((list(part.obs_names) for part in parts), [])) == sorted(cells.obs_names)
    assert [list(p.obs_names) for p in data.split(cells, (0.7, 0.2, 0.1), seed=3)] == [list(p.obs_names) for p in parts]
    assert list(data.split(cells, seed=4)[1].obs_names) != list(data.split(cells, seed=3)[1].obs_names)
    data.assert_no_leakage(*parts)


def test_a_stratified_split_divides_every_cell_type_in_the_same_proportion(cells):
    _, test = data.split(cells, (0.8, 0.2), stratify="cell_type")
    share = test.obs["cell_type"].value_counts() / cells.obs["cell_type"].value_counts()
    size = cells.obs["cell_type"].value_counts()
    assert (abs(share - 0.2) * size <= 0.5 + 1e-9).all()


def test_a_split_by_group_keeps_groups_whole_and_near_the_fractions(raw):
    adata = raw(n=600)
    adata.obs["donor"] = np.repeat([f"d{i}" for i in range(20)], 30)
    train, test = data.split(adata, (0.75, 0.25), by="donor", seed=2)
    assert not set(train.obs["donor"]) & set(test.obs["donor"]) and test.n_obs == 150
    data.assert_no_leakage(train, test, by="donor")
    train, test = data.split(adata, by="donor", test=["d3", "d7"])
    assert set(test.obs["donor"]) == {"d3", "d7"} and train.n_obs == 540


def test_every_part_keeps_all_categories_so_that_codes_agree(cells):
    train, test = data.split(cells, by="cell_type", test=["NK"])
    assert (
        list(train.obs["cell_type"].cat.categories)
        == list(test.obs["cell_type"].cat.categories)
        == list(cells.obs["cell_type"].cat.categories)
    )
    code = data.loader(test, "cell_type").dataset.columns["cell_type"].unique().tolist()
    assert code == [list(cells.obs["cell_type"].cat.categories).index("NK")]


def test_the_guard_catches_shared_cells_copies_and_groups(cells):
    train, test = data.split(cells)
    with pytest.raises(Refused, match="share 1 cells"):
        data.assert_no_leakage(train, ad.concat([test, train[:1]]))
    renamed = train[:2].copy()
    renamed.obs_names = ["copy 1", "copy 2"]
    with pytest.raises(Refused, match="2 identical cells under different names"):
        data.assert_no_leakage(train, renamed)
    with pytest.raises(Refused, match="share 10 values of 'cell_type'"):
        data.assert_no_leakage(train, test, by="cell_type")
    with pytest.raises(Refused, match="parts 1 and 2"):
        data.assert_no_leakage(train, test, test)


def test_the_guard_catches_a_category_that_training_never_saw(cells):
    train, test = data.split(cells, by="cell_type", test=["NK"])
    with pytest.raises(Refused, match="'NK' occurs only among held-out"):
        data.assert_known_categories(train, test, "cell_type")
    data.assert_known_categories(*data.split(cells, stratify="cell_type"), "cell_type")


def test_the_guards_refuse_a_column_that_is_not_there(cells):
    parts = data.split(cells)
    with pytest.raises(Refused, match="no column 'donor'; it has: cell_type"):
        data.assert_no_leakage(*parts, by="donor")
    with pytest.raises(Refused, match="no column 'donor'; it has: cell_type"):
        data.assert_known_categories(*parts, "donor")


def test_a_label_that_is_missing_is_no_group_until_it_is_given_one():
    labels = ["d1"] * 10 + ["d2"] * 10 + [None] * 10
    cells = ad.AnnData(np.random.default_rng(0).random((30, 3)))
    cells.obs["donor"] = labels
    missing = "obs.'donor'. is missing for 10 of 30 cells; label or remove them"
    for options in (dict(by="donor"), dict(stratify="donor"), dict(by="donor", test=["d1"])):
        with pytest.raises(Refused, match=missing):
            data.split(cells, (0.6, 0.4), **options)
    with pytest.raises(Refused, match=missing):
        data.assert_no_leakage(cells[:0].copy(), cells, by="donor")
    with pytest.raises(Refused, match=missing):
        data.assert_known_categories(cells[:10].copy(), cells, "donor")
    cells.obs["donor"] = cells.obs["donor"].fillna("unknown")
    train, test = data.split(cells, (0.6, 0.4), by="donor")
    assert (train.n_obs, test.n_obs) == (20, 10)
    assert data.split(cells[:20].copy(), (0.5, 0.5), by="donor")[1].n_obs == 10


def test_every_part_keeps_a_colour_beside_each_category():
    cells = ad.AnnData(np.ones((10, 3)), uns={"type_colors": ["#ff0000", "#0000ff"]})
    cells.obs["type"] = pd.Categorical(["A"] * 9 + ["B"], ["B", "A"])
    for part in data.split(cells, (0.8, 0.2)):
        assert part.obs["type"].cat.categories.tolist() == ["B", "A"]
        assert list(part.uns["type_colors"]) == ["#ff0000", "#0000ff"]
        part.uns["type_colors"][0] = "#000000"
    assert cells.uns["type_colors"][0] == "#ff0000"


@pytest.mark.parametrize("groups", ["stim", ["stim"], np.array(["stim"]), {"stim"}])
def test_one_group_of_test_may_stand_without_a_list(groups):
    cells = ad.AnnData(np.ones((6, 2)))
    cells.obs["batch"], cells.obs["run"] = ["ctrl", "stim"] * 3, [1, 2] * 3
    train, test = data.split(cells, by="batch", test=groups)
    assert set(train.obs["batch"]) == {"ctrl"} and set(test.obs["batch"]) == {"stim"}
    assert set(data.split(cells, by="run", test=2)[1].obs["run"]) == {2}
    with pytest.raises(Refused, match="no cell has batch 'ctr'"):
        data.split(cells, by="batch", test="ctr")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(fractions=(0.5, 0.6)), "sum to 1"),
        (dict(fractions=(1.0, 0.0)), "positive"),
        (dict(by="donor"), "no column 'donor'"),
        (dict(by="phase", stratify="phase"), "cannot be divided"),
        (dict(test=["NK"]), "name the column with by="),
        (dict(by="cell_type", test=["T"]), "no cell has cell_type 'T'"),
        (dict(by="phase", fractions=(0.25,) * 4), "3 groups cannot fill 4 parts"),
        (dict(fractions=(0.9999, 0.0001)), "part 1 .* has no cells"),
    ],
)
def test_impossible_splits_are_refused_in_one_sentence(cells, options, message):
    with pytest.raises(Refused, match=message):
        data.split(cells, **options)
