"""The catalogue: one name in four places, cards that are true, and a new set that touches nothing else."""

import hashlib
import inspect
import itertools
import math
import re
import socket
import sys
from pathlib import Path

import pytest

from lab import data
from lab.data import catalogue, public
from lab.data.card import KINDS

ROOT = Path(__file__).parents[3]
FILES = {path.stem: path for path in (ROOT / "lab/data/catalogue").glob("[!_]*.py")}
PAGES = {path.stem.removeprefix("data-"): path for path in (ROOT / "book/appendix").glob("data-*.md")}
CARDS = {card.name: card for card in catalogue.cards()}
EMBEDDED = [name for name, card in CARDS.items() if card.kind in ("real", "simulated") and name != card.call]
PUBLIC = [name for name, card in CARDS.items() if card.kind == "public" and name != card.call]


def file_of(card):
    return catalogue.names()[re.match(r"\w+", card.call)[0]]


@pytest.mark.parametrize("name", FILES)
def test_a_set_has_one_name_in_four_places_and_a_card(name):
    assert Path(inspect.getsourcefile(getattr(data, name))) == FILES[name] and name in dir(data)
    assert name in PAGES and f"file: book/appendix/data-{name}\n" in (ROOT / "_toc.yml").read_text()
    assert (Path(__file__).parent / f"test_{name}.py").is_file()
    assert name in [re.match(r"\w+", card.call)[0] for card in CARDS.values()]


def test_every_page_of_data_is_of_a_set():
    assert set(PAGES) == {*FILES, "adding"}


@pytest.mark.parametrize("name", CARDS)
def test_the_page_says_what_the_card_says(name):
    card = CARDS[name]
    page = PAGES[file_of(card)].read_text()
    assert re.search(rf"\*\*Call\*\*.*`lab\.data\.{re.match('[.0-9a-z_]+', name)[0]}\(", page)
    assert card.cells is None or f"{card.cells:,}" in page
    assert card.licence.split(";")[0] in page
    assert not card.citation or re.search(rf"{{cite:[tp]}}`{card.citation}`", page)
    assert not card.files or card.source in page


def test_every_listed_set_says_its_licence_and_its_citation_is_in_the_bibliography():
    table, bibliography = data.sets(), (ROOT / "references.bib").read_text()
    assert (table["licence"] != "").all() and (table["source"] != "").all()
    for key in filter(None, table["citation"]):
        assert f"{{{key}," in bibliography, key
    assert (table.loc[table["kind"] == "public", "status"] != "embedded").all()
    assert (table.loc[table["kind"] != "public", "status"] == "embedded").all()


def test_the_table_lists_all_sets_of_cells_the_smallest_of_each_kind_first():
    table = data.sets()
    assert set(table.index) == {card.call for card in CARDS.values() if card.kind != "table"}
    assert list(table["kind"]) == sorted(table["kind"], key=KINDS.index)
    families = [file for file, _ in itertools.groupby(map(file_of, CARDS.values()))]
    first = {file_of(card): card for card in reversed(CARDS.values())}
    assert families == sorted(families, key=lambda f: (KINDS.index(first[f].kind), first[f].cells or math.inf))


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_set_has_the_size_on_its_card_and_needs_no_network(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert getattr(data, name)().shape == (CARDS[name].cells, CARDS[name].genes)


@pytest.mark.real
@pytest.mark.parametrize("name", PUBLIC)
def test_published_files_hold_what_the_card_says(name):
    if public.status(CARDS[name]) != "published files in LAB_DATA":
        pytest.skip(f"LAB_DATA has not the published files of {name}()")
    assert getattr(data, name)().shape == (CARDS[name].cells, CARDS[name].genes)


def test_other_names_of_a_sets_file_are_found_and_its_helpers_are_not():
    assert data.counterfactual_mean.__module__ == "lab.data.catalogue.bulk"
    assert data.pbmc68k.__module__ == "lab.data.catalogue.pbmc3k"
    for name in ("moons", "announced", "CARD", "_from_geo"):
        assert not hasattr(data, name)


def test_an_unknown_name_is_a_plain_error_that_names_the_nearest():
    with pytest.raises(AttributeError, match="^module 'lab.data' has no attribute 'pbmc2k'; did you mean 'pbmc3k'\\?$"):
        _ = data.pbmc2k
    with pytest.raises(AttributeError, match="^module 'lab.data' has no attribute 'xyz'$"):
        _ = data.xyz
    with pytest.raises(ImportError, match="cannot import name 'digit'"):
        exec("from lab.data import digit")


def test_the_appendixs_new_set_is_one_file_of_the_catalogue(lab_data, tmp_path_factory, monkeypatch, capsys):
    adata, file = data.pbmc()[:2, :3].copy(), lab_data / "mine.h5ad"
    adata.X = adata.layers.pop("counts").astype("float32")
    adata.write_h5ad(file)
    example = re.search("```python\n(.*?)```", PAGES["adding"].read_text(), re.S)[1]
    example = example.replace("sha256:…", f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "mine.py").write_text(example + "\n\ndef of_mine():\n    return 'found'\n")
    monkeypatch.setattr(catalogue, "__path__", [*catalogue.__path__, str(folder)])
    catalogue.names.cache_clear()
    try:
        assert (data.mine().layers["counts"] != adata.X).nnz == 0 and data.of_mine() == "found"
        assert f"published {file}" in (said := capsys.readouterr().out) and "mine: 2 cells x 3 genes" in said
        row = data.sets().loc["mine()"]
        assert (row["cells"], row["citation"], row["status"]) == (10_000, "author2020", "published files in LAB_DATA")
        assert {"mine", "kang"} <= set(dir(data))
    finally:
        catalogue.names.cache_clear()
        sys.modules.pop("lab.data.catalogue.mine", None)
