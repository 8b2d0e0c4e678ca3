"""The schema of a screen: what as_screen makes of other people's columns, and what check_screen refuses."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from lab import data
from lab.errors import Refused

LABELS = ["NT", "B_A", "A", "A_B", "A_NT", "NT_NT", np.nan]


@pytest.fixture
def raw():
    """Seven cells x 3 genes as a stranger would hold them."""
    counts = np.arange(21).reshape(7, 3).astype(np.float32)
    obs = pd.DataFrame({"gene": LABELS, "um": ["", "3", "1", "2", "5", "7", "9"], "lane": range(7)}, list("abcdefg"))
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=["X", "Y", "Z"]))


def test_names_numbers_and_doses_follow_from_the_labels(raw, capsys):
    screen = data.as_screen(raw, "gene", control="NT", separator="_", keep={"batch": "lane"})
    assert list(screen.obs["perturbation"]) == ["control", "A+B", "A", "A+B", "A", "control"]
    assert list(screen.obs["perturbation"].cat.categories) == ["control", "A", "A+B"]
    assert list(screen.obs["nperts"]) == [0, 2, 1, 2, 1, 0] and list(screen.obs["dose"]) == [0, 1, 1, 1, 1, 0]
    assert list(screen.obs["control"]) == [True, False, False, False, False, True]
    assert list(screen.obs["batch"].cat.categories) == list("012345")  # a category, although it was numbers
    assert "1 of 7 cells have no label in 'gene', and are left out" in capsys.readouterr().out
    np.testing.assert_array_equal(screen.layers["counts"].toarray(), raw.X[:6].toarray())
    assert screen.X is None and screen.layers["counts"].dtype == np.int32 and screen.layers["counts"].format == "csr"
    data.check_screen(screen)


def test_doses_are_read_where_named_and_a_control_has_none(raw):
    raw.obs["gene"] = ["NT", "A", "B", "A", "A", "NT", "B"]
    screen = data.as_screen(raw, "gene", control="NT", dose="um")
    assert list(screen.obs["dose"]) == [0, 3, 1, 2, 5, 0, 9]
    raw.obs.loc["c", "um"] = "high"
    with pytest.raises(Refused, match="obs\\['um'\\] is no number for 1 perturbed cells"):
        data.as_screen(raw, "gene", control="NT", dose="um")


def test_a_plus_within_a_name_is_no_combination(raw):
    raw.obs["gene"] = ["DMSO", "(+)-JQ1", *["DMSO"] * 5]
    screen = data.as_screen(raw, "gene", control="DMSO")
    assert screen.obs["perturbation"].iloc[1] == "(plus)-JQ1" and screen.obs["nperts"].max() == 1


def test_some_perturbations_and_the_controls_are_read_in_either_order_of_their_parts(raw):
    screen = data.as_screen(raw, "gene", control="NT", separator="_", only=["B+A"])
    assert list(screen.obs_names) == ["a", "b", "d", "f"]
    np.testing.assert_array_equal(screen.layers["counts"].toarray(), raw.X[[0, 1, 3, 5]].toarray())
    with pytest.raises(Refused, match="no cell carries 'A\\+C'; the nearest: 'A\\+B'"):
        data.as_screen(raw, "gene", control="NT", separator="_", only=["A+C"])


@pytest.mark.parametrize("dense", [False, True])
def test_a_file_left_on_disk_gives_the_same_as_in_memory(raw, tmp_path, dense):
    raw.obs["gene"] = raw.obs["gene"].astype(object).fillna("nan")  # as some write a missing label
    if dense:
        raw.X = raw.X.toarray()
    raw.write_h5ad(tmp_path / "raw.h5ad")
    how = dict(by="gene", control="NT", separator="_")
    memory, disk = (data.as_screen(cells, **how) for cells in (raw, data.read(tmp_path / "raw.h5ad", on_disk=True)))
    assert (memory.layers["counts"] != disk.layers["counts"]).nnz == 0 and memory.obs.equals(disk.obs)
    assert memory.n_obs == 6


def test_rows_beyond_one_chunk_keep_their_labels():
    random = np.random.default_rng(0)
    counts, of = random.poisson(1.0, (2500, 3)), random.choice(["NT", "A", "B"], 2500)
    cells = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=pd.DataFrame({"gene": of}))
    screen = data.as_screen(cells, "gene", control="NT", only=["B"])
    np.testing.assert_array_equal(screen.layers["counts"].toarray(), counts[of != "A"])


@pytest.mark.parametrize(
    "change, how, says",
    [
        ({}, {"by": "target"}, "obs has no column 'target'; it has: gene, um, lane"),
        ({}, {"control": "NTC"}, "no cell is 'NTC' in obs\\['gene'\\]; the nearest: 'NT'"),
        ({}, {"dose": "nM"}, "obs has no column 'nM'"),
        ({}, {"keep": {"batch": "gem"}}, "obs has no column 'gem'"),
        ({}, {"layer": "counts"}, "there is no layer 'counts'"),
        ({"gene": ["NT", "control", *"ABABA"]}, {}, "has 'control' beside 'NT'; rename one"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence(raw, change, how, says):
    raw.obs = raw.obs.assign(**change)
    with pytest.raises(Refused, match=says) as caught:
        data.as_screen(raw, **{"by": "gene", "control": "NT", **how})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("value, says", [(0.5, "holds fractions"), (-1, "negative"), (np.nan, "NaN")])
def test_values_that_are_no_counts_are_refused_wherever_they_stand(raw, row, value, says):
    raw.X = raw.X.toarray()
    raw.X[row, 1] = value
    with pytest.raises(Refused, match=says):
        data.as_screen(raw, "gene", control="NT", separator="_")


@pytest.fixture
def screen(raw):
    return data.as_screen(raw, "gene", control="NT", separator="_")


@pytest.mark.parametrize("name", ["perturbation", "control", "nperts", "dose"])
def test_a_screen_without_one_of_its_columns_is_refused(screen, name):
    del screen.obs[name]
    with pytest.raises(Refused, match=f"obs has no column '{name}', and a screen has .*; as_screen makes them"):
        data.check_screen(screen)


def test_a_screen_that_contradicts_itself_is_refused(screen):
    for name, value in (("nperts", 0), ("dose", 0.0), ("perturbation", "control")):
        wrong = screen.copy()
        wrong.obs[name] = wrong.obs[name].astype(object)
        wrong.obs.loc["c", name] = value
        with pytest.raises(Refused, match=f"'control'\\] and obs\\['{name}'\\] disagree for 1 cells \\(first: 'c'\\)"):
            data.check_screen(wrong)
    with pytest.raises(Refused, match="no cell is a control"):
        data.check_screen(screen[~screen.obs["control"]].copy())
    unlabelled = screen.copy()
    unlabelled.obs["perturbation"] = unlabelled.obs["perturbation"].cat.remove_categories("A")
    with pytest.raises(Refused, match="obs\\['perturbation'\\] is missing for 2 of 6 cells"):
        data.check_screen(unlabelled)
    texts = screen.copy()
    texts.obs["control"] = texts.obs["control"].astype(str)
    with pytest.raises(Refused, match="not True or False"):
        data.check_screen(texts)
    logged = screen.copy()
    logged.layers["counts"] = logged.layers["counts"].log1p()
    with pytest.raises(Refused, match="no counts"):
        data.check_screen(logged)
    del logged.layers["counts"]
    with pytest.raises(Refused, match="there is no layer 'counts'"):
        data.check_screen(logged)


def test_the_simulators_screens_keep_the_schema():
    for cells in (data.perturbseq(), data.perturbseq(screen="knockout", n_doubles=0, seed=1)):
        data.check_screen(cells)
        again = data.as_screen(cells, "perturbation", control="control", separator="+", layer="counts")
        assert (again.obs["nperts"] == cells.obs["nperts"]).all() and (again.obs["dose"] == cells.obs["dose"]).all()
