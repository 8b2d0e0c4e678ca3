"""Opening an .h5ad that somebody else wrote, in memory or left on disk."""

import re
import warnings
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import h5py
from anndata.io import read_elem, sparse_dataset

from lab.errors import Refused

SLOTS = ("obs", "var", "uns", "obsm", "varm", "obsp", "varp")  # all but the matrices


def read(path: str | Path, *, on_disk: bool = False) -> ad.AnnData:
    """The AnnData in an .h5ad file. One that is absent, damaged, open elsewhere, or of another kind raises `Refused`,
    which says how to come by an .h5ad.

    `on_disk=True` leaves X, the layers and raw.X in the file, for sets larger than memory: `loader` then keeps 128
    MB of them in memory. (Anndata's own backed mode leaves only X and raw.X there and loads every layer.)
    """
    path = Path(path)
    try:
        if not path.exists():
            raise Refused(f"there is no file {path}; check the path")
        if other := _of_another_kind(path):
            raise Refused(f"{path} {other}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on old file formats, which it reads all the same
            return _left_on_disk(path) if on_disk else ad.read_h5ad(path)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # h5py and anndata raise many kinds for a damaged file
        raise Refused(f"{path} {_why(error, path)}") from error


def _of_another_kind(path: Path) -> str:
    """What the file is instead of an .h5ad, and how to make one of it; "" for an .h5ad."""
    new = "NEW.h5ad"
    if path.is_dir() and any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        return f"is a Zarr store; write its cells anew, anndata.read_zarr({str(path)!r}).write_h5ad({new!r})"
    if path.is_dir():
        return "is a folder; name the .h5ad in it"
    with path.open("rb") as file:
        begin = file.read(8)
    if begin[:2] == b"\x1f\x8b":
        return f"is compressed; unpack it first, gunzip -c {path} > {new}"
    if begin != b"\x89HDF\r\n\x1a\n":
        return "is not an .h5ad (it does not begin like HDF5); read it with scanpy and write it with adata.write_h5ad"
    with h5py.File(path, "r") as file:
        if "mod" in file:
            first = next(iter(file["mod"]), "")
            return (
                f"holds several sets ({', '.join(file['mod'])}), as muon writes them; write one anew, "
                f"anndata.io.read_elem(h5py.File({str(path)!r})['mod/{first}']).write_h5ad({new!r})"
            )
        groups = [item for item in file.values() if isinstance(item, h5py.Group)]
        if any({"features", "gene_names"} & set(group) for group in groups):
            return (
                f"is a 10x file, not an .h5ad; read it with scanpy.read_10x_h5({str(path)!r}) and write it with "
                "adata.write_h5ad"
            )
        if "obs" not in file:
            return "holds no AnnData; read it with the package that wrote it and write it with adata.write_h5ad"
    return ""


def _left_on_disk(path: Path) -> ad.AnnData:
    file = h5py.File(path, "r")
    if isinstance(file["obs"], h5py.Dataset):  # as before anndata 0.7, which reads such layers
        old = ad.read_h5ad(path, backed="r")
        slots = {key: getattr(old, key) for key in SLOTS}
        raw = old.raw and {"X": old.raw.X, "var": old.raw.var, "varm": old.raw.varm}
        return ad.AnnData(old.X, layers=old.layers, raw=raw, **slots)
    slots = {key: read_elem(file[key]) for key in SLOTS if key in file}
    layers = {name: _lazy(item) for name, item in file["layers"].items()} if "layers" in file else {}
    raw = {name: _lazy(item) if name == "X" else read_elem(item) for name, item in file.get("raw", {}).items()}
    return ad.AnnData(_lazy(file["X"]) if "X" in file else None, layers=layers, raw=raw or None, **slots)


def _lazy(item):
    return item if isinstance(item, h5py.Dataset) else sparse_dataset(item)


def _why(error: Exception, path: Path) -> str:
    """Why this error of Python, h5py or anndata arose, and what to do."""
    said = str(error).strip().strip("'\"").splitlines()[0][:120] if str(error) else type(error).__name__
    if isinstance(error, PermissionError):
        return "may not be read by you (permission denied); ask for permission to read it, or name another file"
    if isinstance(error, BlockingIOError):
        return "is open for writing in another program; close it there, then try again"
    if "No read method registered" in said:
        where = re.search("key '(.*)' of .* from /(.*)", " ".join(getattr(error, "__notes__", [])))
        name = f"{where[2]}/{where[1]}".strip("/") if where else "an entry"
        return (
            f"holds {name}, which anndata {version('anndata')} cannot read, as a newer one wrote it; update anndata, "
            f"or remove that, del h5py.File({str(path)!r}, 'r+')[{name!r}]"
        )
    if isinstance(error, OSError) or ("synchronously" in said and "doesn't exist" not in said):
        return f"cannot be read as .h5ad ({said}); it is truncated or damaged, copy it again"
    return f"cannot be read as .h5ad ({said}); write it anew with the program that made it"
