"""A file that somebody else wrote: read, or refused in one sentence."""

import h5py
import pytest

from lab import data
from lab.errors import Refused


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no file"),
        (b"cell,gene\n1,2\n", "not an .h5ad"),
        ("folder", "is a folder"),
        ("truncated", "truncated or damaged"),
        ("other hdf5", "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_that_is_no_h5ad_is_refused_in_one_sentence(content, message, on_disk, tmp_path):
    path = tmp_path / "cells.h5ad"
    if content == "folder":
        path.mkdir()
    elif content == "truncated":
        data.pbmc().write_h5ad(path)
        path.write_bytes(path.read_bytes()[:200_000])
    elif content == "other hdf5":
        h5py.File(path, "w").close()
    elif content:
        path.write_bytes(content)
    with pytest.raises(Refused, match=message) as caught:
        data.read(path, on_disk=on_disk)
    assert "\n" not in str(caught.value)
