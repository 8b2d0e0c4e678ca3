"""Opening an .h5ad that somebody else wrote, in memory or left on disk."""

import warnings
from pathlib import Path

import anndata as ad
import h5py
from anndata.io import read_elem, sparse_dataset

from lab.errors import Refused


def read(path: str | Path, *, on_disk: bool = False) -> ad.AnnData:
    """The AnnData in an .h5ad file; a file that is absent, truncated, or not an .h5ad raises `Refused`.

    `on_disk=True` leaves X and the layers in the file, for sets larger than memory: `loader` then reads one minibatch
    at a time. (Anndata's own backed mode leaves only X there and loads every layer.)
    """
    path = Path(path)
    if not path.is_file():
        raise Refused(
            f"there is no file {path}; check the path"
            if not path.is_dir()
            else f"{path} is a folder; name the .h5ad in it"
        )
    if path.open("rb").read(8) != b"\x89HDF\r\n\x1a\n":
        raise Refused(f"{path} is not an .h5ad (it does not begin like HDF5); convert it with anndata's write_h5ad")
    try:
        if not on_disk:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on old file formats, which it reads all the same
                return ad.read_h5ad(path)
        file = h5py.File(path, "r")
        slots = {key: read_elem(file[key]) for key in ("obs", "var", *{"uns", "obsm", "varm"} & set(file))}
        layers = {name: _lazy(item) for name, item in file["layers"].items()} if "layers" in file else {}
        return ad.AnnData(_lazy(file["X"]) if "X" in file else None, layers=layers, **slots)
    except Exception as error:  # h5py and anndata raise many kinds for a damaged file
        raise Refused(
            f"{path} cannot be read as .h5ad ({_first_line(error)}); it is truncated or damaged, copy it again"
        ) from error


def _lazy(item):
    return item if isinstance(item, h5py.Dataset) else sparse_dataset(item)


def _first_line(error: Exception) -> str:
    return str(error).strip().strip("'\"").splitlines()[0][:120] if str(error) else type(error).__name__
