"""Public data sets: where each comes from, and how its files are found, checked and, if need be, downloaded once.

Nothing here is silent. `locate` looks for the published files in the folder that the environment variable LAB_DATA names (their
hash is checked), then for a development subset there, then in the download cache, then on the network, and prints what it took.
"""
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from .errors import DataError


@dataclass(frozen=True)
class Source:
    """What the world knows of one public data set. `files` maps a published file name to (address, "algorithm:hash")."""
    name: str
    files: dict[str, tuple[str, str]]
    cells: int
    genes: int
    licence: str
    citation: str            # key in references.bib
    page: str                # where a person reads about it
    instead: str             # the embedded set to use when this one is out of reach
    subset: str | None = None      # a development subset, by the name of its file


def locate(source: Source) -> tuple[list[Path], bool]:
    """Paths of the source's files, in the order of `files`, and whether they are the published ones (else the subset).

    Raises `DataError`: LAB_DATA does not exist; a file there has the wrong hash; nothing is here and the network does not answer.
    """
    if (folder := lab_data()) is not None:
        found = [_find(folder, name) for name in source.files]
        if all(found):
            for path, (url, known) in zip(found, source.files.values()):
                check_hash(path, known, url)
            print(f"{source.name}: reading the published {', '.join(source.files)} in {folder}")
            return found, True
        if source.subset and (path := _find(folder, source.subset)):
            print(f"{source.name}: reading a development subset, {path.name}, not the published set")
            return [path], False
    return [_download(source, name) for name in source.files], True


def status(source: Source) -> str:
    """Where the set stands on this machine: "published files in LAB_DATA", "subset in LAB_DATA", "downloaded" or "not here"."""
    folder = lab_data()
    if folder and all(_find(folder, name) for name in source.files):
        return "published files in LAB_DATA"
    if folder and source.subset and _find(folder, source.subset):
        return "subset in LAB_DATA"
    return "downloaded" if all((cache() / name).is_file() for name in source.files) else "not here"


def lab_data() -> Path | None:
    """The folder that LAB_DATA names, None where it is not set; one that does not exist is refused."""
    if not (name := os.environ.get("LAB_DATA")):
        return None
    if not Path(name).is_dir():
        raise DataError(f"LAB_DATA={name} is not a folder; create it, correct the path, or unset the variable")
    return Path(name)


def cache() -> Path:
    """Where downloads are kept: the operating system's cache folder, `generating-cells`."""
    return Path(pooch.os_cache("generating-cells"))


def check_hash(path: Path, known: str, url: str) -> None:
    """Raise `DataError` unless the file has the hash `known` ("sha256:…" or "md5:…")."""
    algorithm, digest = known.split(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        raise DataError(f"{path} has {algorithm} {found[:12]}…, not the published {digest[:12]}…; it is truncated or another version: "
                        f"delete it and fetch {url} again")


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in [folder / name, *sorted(folder.glob(f"*/{name}"))] if path.is_file()), None)


def _download(source: Source, name: str) -> Path:
    url, known = source.files[name]
    pooch.get_logger().setLevel("WARNING")
    print(f"{source.name}: {'reading' if (cache() / name).is_file() else 'downloading'} {url}")
    try:
        return Path(pooch.retrieve(url, known, fname=name, path=cache(), progressbar=True))
    except ValueError as error:
        raise DataError(f"{url} no longer gives the published file (its {known.split(':')[0]} differs); see {source.page}, or use "
                        f"{source.instead} instead") from error
    except OSError as error:    # what requests raises, too
        raise DataError(f"{source.name}() needs {name}, which is not on this machine and could not be downloaded from {url}; put it into "
                        f"a folder and set LAB_DATA to that folder, or use {source.instead}, which needs no download") from error
