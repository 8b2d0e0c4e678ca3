"""A file that somebody else wrote: read, or refused in one sentence whose remedy works."""

import gc
import gzip
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scanpy
from anndata.io import write_elem
from scipy import sparse

from lab import data
from lab.errors import Refused

OLD = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"  # written before anndata 0.7


def small():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2, (12, 5)))
    cells = anndata.AnnData(np.log1p(counts), layers={"counts": counts}, obsm={"X_pca": np.zeros((12, 2))})
    cells.obs["type"], cells.uns["note"] = list("ab") * 6, "mine"
    cells.raw = anndata.AnnData(sparse.hstack([counts, counts], "csr"))
    return cells


def refused(path, message, on_disk=False):
    with pytest.raises(Refused, match=message) as caught:
        data.read(path, on_disk=on_disk)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def in_memory(cells):
    """Names, obs and every matrix of a set, wherever they stand."""
    dense = lambda m: np.asarray(m.toarray() if sparse.issparse(m := m[:]) else m)
    matrices = {"X": cells.X} | dict(cells.layers) | dict(cells.obsm)
    matrices |= {"raw": cells.raw.X} if cells.raw is not None else {}
    frames = [cells.obs, cells.var, *([cells.raw.var] if cells.raw is not None else [])]
    return {name: dense(m) for name, m in matrices.items() if m is not None}, frames, set(cells.uns)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no file"),
        (b"cell,gene\n1,2\n", "not an .h5ad"),
        ("folder", "is a folder"),
        ("truncated", "truncated or damaged, copy it again"),
        ("overwritten", "truncated or damaged, copy it again"),
        ("other hdf5", "holds no AnnData"),
        ("no table", "write it anew with the program"),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_that_is_no_h5ad_is_refused_in_one_sentence(content, message, on_disk, tmp_path):
    path = tmp_path / "cells.h5ad"
    if content == "folder":
        path.mkdir()
    elif content in ("truncated", "overwritten"):
        data.pbmc().write_h5ad(path)
        whole = path.read_bytes()
        start = whole.index(b"TREE", 5000)
        path.write_bytes(whole[:200_000] if content == "truncated" else whole[:start] + bytes(5000) + whole[start:])
    elif content == "other hdf5":
        h5py.File(path, "w").close()
    elif content == "no table":
        small().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            del file["obs"]
            file["obs"] = 1
    elif content:
        path.write_bytes(content)
    refused(path, message, on_disk)


@pytest.mark.parametrize("form", ["now", "without raw", "dense", "before 0.7"])
def test_what_is_read_into_memory_is_read_on_disk_too(form, tmp_path):
    path = OLD
    if form != "before 0.7":
        cells = small()
        if form == "without raw":
            del cells.raw
        elif form == "dense":
            cells.X, cells.raw = cells.X.toarray(), anndata.AnnData(cells.raw.X.toarray())
        cells.write_h5ad(path := tmp_path / "cells.h5ad")
    here, there = data.read(path), data.read(path, on_disk=True)
    matrices = [there.X] if form == "before 0.7" else [there.X, *there.layers.values()]
    matrices += [] if form == "without raw" else [there.raw.X]
    assert not any(isinstance(matrix, np.ndarray) or sparse.issparse(matrix) for matrix in matrices)
    (one, frames, uns), (other, others, uns_too) = in_memory(here), in_memory(there)
    assert one.keys() == other.keys() and uns == uns_too and (here.raw is None) == (there.raw is None)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert all(frame.equals(again) for frame, again in zip(frames, others, strict=True))


def python(said):
    """The line of Python that a sentence ends in."""
    return re.search(r"(del |anndata\.|scanpy\.)\S*\(.*", said)[0]


def test_a_compressed_file_is_read_once_it_is_unpacked(tmp_path):
    small().write_h5ad(tmp_path / "cells.h5ad")
    path = tmp_path / "cells.h5ad.gz"
    path.write_bytes(gzip.compress((tmp_path / "cells.h5ad").read_bytes()))
    said = refused(path, "is compressed; unpack it first")
    subprocess.run(said.split("unpack it first, ")[1], shell=True, check=True, cwd=tmp_path)
    assert data.read(tmp_path / "NEW.h5ad").shape == (12, 5)


@pytest.mark.filterwarnings("ignore")
def test_a_zarr_store_is_read_once_it_is_written_anew(tmp_path, monkeypatch):
    small().write_zarr(tmp_path / "cells.zarr")
    said = refused(tmp_path / "cells.zarr", "is a Zarr store")
    monkeypatch.chdir(tmp_path)
    exec(python(said))
    assert data.read("NEW.h5ad").shape == (12, 5)


def tenx(path, version):
    """As Cell Ranger writes it: genes x cells, by column."""
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2, (12, 5)))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "hg19")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name)
        group["shape"], group["barcodes"] = (5, 12), [f"cell-{i}" for i in range(12)]
        genes = [f"gene-{i}" for i in range(5)]
        if version == 2:
            group["genes"], group["gene_names"] = genes, genes
        else:
            for name in ("id", "name", "feature_type", "genome"):
                group[f"features/{name}"] = genes if name in ("id", "name") else ["Gene Expression"] * 5


@pytest.mark.parametrize("version", [2, 3])
def test_a_10x_file_is_read_once_scanpy_has_written_it_anew(version, tmp_path):
    tenx(tmp_path / "cells.h5", version)
    said = refused(tmp_path / "cells.h5", "is a 10x file")
    eval(python(said.split(" and write it")[0])).write_h5ad(tmp_path / "cells.h5ad")
    assert data.read(tmp_path / "cells.h5ad").shape == (12, 5)


def test_one_of_several_sets_is_read_once_it_is_written_anew(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "cells.h5mu", "w") as file:
        for name in ("rna", "prot"):
            write_elem(file, f"mod/{name}", small())
        write_elem(file, "obs", small().obs)
    said = refused(tmp_path / "cells.h5mu", "holds several sets \\(prot, rna\\)")
    monkeypatch.chdir(tmp_path)
    exec(python(said))
    assert data.read("NEW.h5ad").shape == (12, 5)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("entry", ["uns/later", "uns/results/later", "obsm/later"])
def test_what_a_newer_anndata_wrote_is_named_and_the_rest_read_without_it(entry, on_disk, tmp_path):
    path = tmp_path / "cells.h5ad"
    small().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if "results" in entry:
            write_elem(file, "uns/results", {})
        file[entry] = 1
        file[entry].attrs.update({"encoding-type": "of-next-year", "encoding-version": "0.1.0"})
    said = refused(path, f"holds {entry}, which anndata .* cannot read, as a newer one wrote it; update", on_disk)
    gc.collect()  # what was read on disk holds the file open
    exec(python(said))
    assert data.read(path, on_disk=on_disk).shape == (12, 5)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_that_another_program_writes_is_read_once_it_is_closed(on_disk, tmp_path):
    path = tmp_path / "cells.h5ad"
    small().write_h5ad(path)
    hold = f"import h5py; file = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        refused(path, "is open for writing in another program", on_disk)
        other.communicate(b"\n")
    assert data.read(path, on_disk=on_disk).shape == (12, 5)


@pytest.fixture
def nobody():
    """Tests that run as root, who reads everything, go on as nobody."""
    root = os.geteuid() == 0
    yield lambda: root and os.seteuid(65534)
    if root:
        os.seteuid(0)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("which", ["the file", "its folder"])
def test_a_file_that_one_may_not_read_needs_a_permission_and_no_other_place(which, on_disk, nobody):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        small().write_h5ad(path)
        os.chmod(folder, 0o755 if which == "the file" else 0)
        path.chmod(0) if which == "the file" else None
        nobody()
        refused(path, "ask for permission to read it", on_disk)
        os.seteuid(os.getuid())
        os.chmod(folder, 0o700)


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    small().write_h5ad(tmp_path / "cells.h5ad")

    def read_h5ad(path):
        raise MemoryError

    monkeypatch.setattr(anndata, "read_h5ad", read_h5ad)
    with pytest.raises(MemoryError):
        data.read(tmp_path / "cells.h5ad")
