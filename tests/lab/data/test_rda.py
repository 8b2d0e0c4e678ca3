"""R's data files: vectors, names, matrices, environments, and what is refused."""

import gzip

import numpy as np
import pytest
from rdata import HAS_TAG, HEAD, NIL, environment, integer, integers, objects, pairs, reals, s4, saved, strings, symbol

from lab.data.rda import read_rda
from lab.errors import Refused


def test_vectors_names_and_matrices_are_read(tmp_path):
    matrix = reals(1, 2, 3, 4, 5, 6, dim=integers(2, 3), dimnames=objects(strings("g", "h"), NIL))
    found = read_rda(saved(tmp_path / "a.rda", a=integers(1, 2), b=matrix, c=strings("x", None)))
    assert list(found) == ["a", "b", "c"] and found["a"].tolist() == [1, 2] and found["c"] == ["x", None]
    assert found["b"]["values"].reshape((2, 3), order="F").tolist() == [[1, 3, 5], [2, 4, 6]]
    assert found["b"]["dim"].tolist() == [2, 3] and found["b"]["dimnames"] == [["g", "h"], None]


def test_environments_and_s4_objects_are_dicts_and_a_symbol_met_again_is_known(tmp_path):
    again = integer(2 | HAS_TAG) + integer(1 << 8 | 255) + reals(2.5) + NIL  # the tag is the first symbol of the file
    path = tmp_path / "a.rda"
    path.write_bytes(gzip.compress(HEAD + integer(2 | HAS_TAG) + symbol("a") + s4(e=environment(x=reals(1.0))) + again))
    assert read_rda(path)["a"] == 2.5
    found = read_rda(saved(path, a=s4(e=environment(x=reals(1.0), y=integers(3)), k=strings("z"))))
    assert found["a"]["e"]["x"] == 1.0 and found["a"]["e"]["y"] == 3 and found["a"]["k"] == ["z"]


def test_numbers_come_in_this_machines_order(tmp_path):
    assert read_rda(saved(tmp_path / "a.rda", a=reals(1.5)))["a"].dtype == np.dtype("=f8")


@pytest.mark.parametrize("keep", [0, 5, 30, -9])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = saved(tmp_path / "a.rda", a=reals(*range(50)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Refused, match="a.rda cannot be read as .rda .*; it is truncated or damaged, fetch it again"):
        read_rda(path)


@pytest.mark.parametrize("cut", [3, 40])
def test_a_file_whose_content_ends_early_is_refused(tmp_path, cut):
    path = tmp_path / "a.rda"
    path.write_bytes(gzip.compress((HEAD + pairs(a=reals(*range(50))))[:-cut]))
    with pytest.raises(Refused, match="truncated or damaged"):
        read_rda(path)


def test_another_version_and_code_are_refused(tmp_path):
    path = tmp_path / "a.rda"
    path.write_bytes(gzip.compress(b"RDX3\nX\n" + HEAD[7:]))
    with pytest.raises(Refused, match="not an R data file of version 2"):
        read_rda(path)
    path.write_bytes(gzip.compress(HEAD + integer(2 | HAS_TAG) + symbol("f") + integer(3)))
    with pytest.raises(Refused, match="R object of kind 3, which is neither numbers nor text"):
        read_rda(path)
