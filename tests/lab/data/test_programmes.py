"""Gene programmes: the built-in markers, GMT files, and what is refused."""

import os
from pathlib import Path

import pytest

from lab import data
from lab.errors import Refused


def gmt(folder, text):
    path = folder / "sets.gmt"
    path.write_text(text)
    return path


def test_the_built_in_markers_are_ten_genes_for_each_of_nine_cell_types():
    table = data.programmes()
    assert table.shape[1] == 9 and (table.sum() == 10).all()
    assert table.index.is_unique and (table.sum(axis=1) >= 1).all()
    assert table.loc[["MS4A1", "CD79A"], "B naive"].all() and table.loc["GNLY", "NK"] == 1


def test_rows_are_the_genes_asked_in_their_order_and_absent_programmes_are_left_out():
    genes = data.pbmc().var_names
    table = data.programmes(genes)
    assert list(table.index) == list(genes)
    assert "Platelet" not in table and set(table.to_numpy().ravel()) == {0, 1}
    whole = data.programmes()
    for name in table:
        assert set(table.index[table[name] == 1]) == set(whole.index[whole[name] == 1]) & set(genes)


def test_a_programme_with_too_few_genes_is_left_out():
    assert list(data.programmes(["MS4A1", "CD79A", "GNLY"], min_genes=2)) == ["B naive"]


def test_a_gmt_file_is_read_as_written(tmp_path):
    table = data.programmes(file=gmt(tmp_path, "UP\thttp://x\tA\tB\nDOWN\t\tB\tC\t\n"))
    assert table.to_dict() == {"UP": {"A": 1, "B": 1, "C": 0}, "DOWN": {"A": 0, "B": 1, "C": 1}}


@pytest.mark.parametrize(
    "text, says",
    [
        ("UP\thttp://x\tA\tB\nDOWN\thttp://x\tC", "ends in the middle of a line"),  # a download that broke off
        ("UP\thttp://x\tA\nDOWN\thttp://x\n", "line 2 .* is not a programme"),
        ("UP A B\n", "line 1 .* is not a programme"),  # spaces instead of tabs
        ("UP\tx\tA\n\nDOWN\tx\tB\n", "line 2 .* is not a programme"),
        ("UP\tx\tA\nUP\tx\tB\n", "line 2 .* repeats a name"),
        ("", "is empty"),
    ],
)
def test_a_broken_gmt_file_is_refused_in_one_sentence(tmp_path, text, says):
    with pytest.raises(Refused, match=says) as error:
        data.programmes(file=gmt(tmp_path, text))
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_missing_and_a_packed_file_are_refused(tmp_path):
    with pytest.raises(Refused, match="cannot be read"):
        data.programmes(file=tmp_path / "absent.gmt")
    packed = tmp_path / "sets.gmt.gz"
    packed.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(Refused, match="not text"):
        data.programmes(file=packed)


def test_genes_of_another_kind_and_doubled_genes_are_refused():
    with pytest.raises(Refused, match="gene symbols"):
        data.programmes(["ENSG00000156738", "ENSG00000105369"])
    with pytest.raises(Refused, match="gene symbols"):
        data.programmes([])
    with pytest.raises(Refused, match="var_names_make_unique"):
        data.programmes(["CD79A", "CD79A"])


@pytest.mark.real
def test_hallmark_has_fifty_sets_and_meets_the_pbmc_genes():
    table = data.programmes(file=Path(os.environ["LAB_DATA"]) / "gene_sets/human_hallmark_v2025.gmt")
    assert table.shape[1] == 50 and table.loc["ISG15", "HALLMARK_INTERFERON_ALPHA_RESPONSE"] == 1
    here = data.programmes(
        data.pbmc().var_names, Path(os.environ["LAB_DATA"]) / "gene_sets/human_hallmark_v2025.gmt", min_genes=5
    )
    assert len(here) == 765 and here.shape[1] >= 30
