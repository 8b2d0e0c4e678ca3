"""Public data sets: where each comes from, and how its files are found, checked and, if need be, downloaded once.

Nothing here is silent. `locate` looks for the published files in the folder that the environment variable LAB_DATA
names (their hash is checked), then for a development subset there, then in the download cache, then on the network, and
prints what it took.
"""

import hashlib
import os
from pathlib import Path

import anndata as ad
import pooch

from lab.errors import Refused

from .card import Card


def locate(card: Card) -> tuple[list[Path], bool]:
    """Paths of the set's files, in the order of `files`, and whether they are the published ones (else the subset).

    Raises `Refused`: LAB_DATA does not exist; a file there has the wrong hash; nothing is here and the network does
    not answer.
    """
    if (folder := lab_data()) is not None:
        here = {url: path for url in card.files if (path := _find(folder, _name(url)))}
        for url, path in here.items():
            if card.files[url]:
                check_hash(path, card.files[url], url)
            unchecked = "" if card.files[url] else "; its hash is not known here, and was not checked"
            print(f"{card.name}: reading the published {path}{unchecked}")
        if not here and card.subset and (path := _find(folder, card.subset)):
            print(f"{card.name}: reading a development subset, {path.name}, not the published set")
            return [path], False
        return [here.get(url) or _download(card, url) for url in card.files], True
    return [_download(card, url) for url in card.files], True


def status(card: Card) -> str:
    """Where the set stands on this machine: "embedded", "published files in LAB_DATA", "subset in LAB_DATA",
    "downloaded" or "not here".
    """
    if not card.files:
        return "embedded"
    folder, names = lab_data(), [_name(url) for url in card.files]
    if folder and all(_find(folder, name) for name in names):
        return "published files in LAB_DATA"
    if folder and card.subset and _find(folder, card.subset):
        return "subset in LAB_DATA"
    return "downloaded" if all((cache() / name).is_file() for name in names) else "not here"


def announced(name: str, cells: ad.AnnData) -> ad.AnnData:
    """The cells, after a line that says how many they are."""
    print(f"{name}: {cells.n_obs:,} cells x {cells.n_vars:,} genes")
    return cells


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


def _download(card: Card, url: str) -> Path:
    name, known, here = _name(url), card.files[url], (cache() / _name(url)).is_file()
    pooch.get_logger().setLevel("WARNING")
    print(f"{card.name}: {'reading' if here else 'downloading'} {url}")
    if here and not known:  # checked when it was downloaded
        return cache() / name
    try:
        known = known or _stated(url)
        return Path(pooch.retrieve(url, known, fname=name, path=cache(), progressbar=True))
    except (ValueError, KeyError) as error:
        raise Refused(
            f"{url} no longer gives the published file ({known.split(':')[0] or 'it'} differs); "
            f"see {card.source}, or use {card.instead} instead"
        ) from error
    except OSError as error:  # what requests raises, too
        raise Refused(
            f"{card.call} needs {name}, which is not on this machine and could not be "
            f"downloaded from {url}; put it into a folder and set LAB_DATA to that folder, or "
            f"use {card.instead}, which needs no download"
        ) from error


def _stated(url: str) -> str:
    """The hash that an archive states for its file, "doi:…/name"."""
    doi, name = url.rsplit("/", 1)
    archive = pooch.create(path=cache(), base_url=f"{doi}/")
    archive.load_registry_from_doi()
    return archive.registry[name]
