"""Public data sets: where each comes from, and how its files are found, checked and, if need be, downloaded once.

Nothing here is silent. `locate` looks for the published files in the folder that the environment variable LAB_DATA
names (their hash is checked), then for a development subset there, then in the download cache, then on the network, and
prints what it took.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from lab.errors import Refused


@dataclass(frozen=True)
class Source:
    """One public data set. `files` maps each published file's address, whose last part is its name, to its hash."""

    name: str
    files: dict[str, str]  # address: "sha256:…" or "md5:…"
    cells: int
    genes: int
    licence: str
    citation: str  # key in references.bib
    page: str  # where a person reads about it
    instead: str  # the embedded set to use when this one is out of reach
    subset: str | None = None  # a development subset, by the name of its file


def locate(source: Source) -> tuple[list[Path], bool]:
    """Paths of the source's files, in the order of `files`, and whether they are the published ones (else the subset).

    Raises `Refused`: LAB_DATA does not exist; a file there has the wrong hash; nothing is here and the network does
    not answer.
    """
    if (folder := lab_data()) is not None:
        here = {url: path for url in source.files if (path := _find(folder, _name(url)))}
        for url, path in here.items():
            check_hash(path, source.files[url], url)
            print(f"{source.name}: reading the published {path}")
        if not here and source.subset and (path := _find(folder, source.subset)):
            print(f"{source.name}: reading a development subset, {path.name}, not the published set")
            return [path], False
        return [here.get(url) or _download(source, url) for url in source.files], True
    return [_download(source, url) for url in source.files], True


def status(source: Source) -> str:
    """Where the set stands on this machine: "published files in LAB_DATA", "subset in LAB_DATA", "downloaded" or "not
    here".
    """
    folder, names = lab_data(), [_name(url) for url in source.files]
    if folder and all(_find(folder, name) for name in names):
        return "published files in LAB_DATA"
    if folder and source.subset and _find(folder, source.subset):
        return "subset in LAB_DATA"
    return "downloaded" if all((cache() / name).is_file() for name in names) else "not here"


def lab_data() -> Path | None:
    """The folder that LAB_DATA names, None where it is not set; one that does not exist is refused."""
    if not (name := os.environ.get("LAB_DATA")):
        return None
    if not Path(name).is_dir():
        raise Refused(f"LAB_DATA={name} is not a folder; create it, correct the path, or unset the variable")
    return Path(name)


def cache() -> Path:
    """Where downloads are kept: the operating system's cache folder, `generating-cells`."""
    return Path(pooch.os_cache("generating-cells"))


def check_hash(path: Path, known: str, url: str) -> None:
    """Raise `Refused` unless the file has the hash `known` ("sha256:…" or "md5:…")."""
    algorithm, digest = known.split(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        raise Refused(
            f"{path} has {algorithm} {found[:12]}…, not the published {digest[:12]}…; it is truncated "
            f"or another version: delete it and fetch {url} again"
        )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in [folder / name, *sorted(folder.glob(f"*/{name}"))] if path.is_file()), None)


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _download(source: Source, url: str) -> Path:
    name, known = _name(url), source.files[url]
    pooch.get_logger().setLevel("WARNING")
    print(f"{source.name}: {'reading' if (cache() / name).is_file() else 'downloading'} {url}")
    try:
        return Path(pooch.retrieve(url, known, fname=name, path=cache(), progressbar=True))
    except ValueError as error:
        raise Refused(
            f"{url} no longer gives the published file (its {known.split(':')[0]} differs); "
            f"see {source.page}, or use {source.instead} instead"
        ) from error
    except OSError as error:  # what requests raises, too
        raise Refused(
            f"{source.name}() needs {name}, which is not on this machine and could not be "
            f"downloaded from {url}; put it into a folder and set LAB_DATA to that folder, or "
            f"use {source.instead}, which needs no download"
        ) from error
