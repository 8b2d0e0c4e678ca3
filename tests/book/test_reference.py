"""The reference pages: one a tier, each thing once, with the chapters that use it."""

import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import lab_reference
import pytest
import reach
from contents import ROOT, chapter, code, notebook_pages, pages
from lab_reference import reference, tiers, used_in

PACKAGES = [r for t in ("foundations", "models") for r in tiers()[t] if (reach.LAB / r / "__init__.py").exists()]


def test_every_tier_that_has_rooms_has_its_page():
    standing = [p.with_suffix("").as_posix() for p in pages() if p.name.startswith("reference-")]
    assert standing == lab_reference.pages()
    for page, tier in zip(standing, tiers()):
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        assert re.findall(r"```\{lab-reference\} (\w+)", text) == [tier]


def test_a_tier_without_rooms_has_no_page(monkeypatch, tmp_path):
    plan = "lab: words.\n\nfoundations, first\n    path   paths\n\nmodels, next\n\nedges, last\n    command   front\n"
    (tmp_path / "__init__.py").write_text(f'"""{plan}"""')
    monkeypatch.setattr(reach, "LAB", tmp_path)
    assert [p.rsplit("-")[1] for p in lab_reference.pages()] == ["foundations", "edges"]


def test_what_the_pages_document_is_documented_once():
    lines = [line for tier in tiers() for line in reference(tier) if line.startswith(".. auto")]
    assert Counter(lines).most_common(1)[0][1] == 1


@pytest.mark.parametrize("room", PACKAGES)
def test_a_package_shows_what_its_door_shows_in_the_order_of_its_files(room):
    package = import_module(f"lab.{room}")
    shown = re.findall(rf"auto(?:function|class):: lab\.{room}\.(\w+)\n", "".join(lab_reference.entry(package)))
    door = {n for n in getattr(package, "__all__", vars(package)) if callable(getattr(package, n)) and n[0] != "_"}
    own = {n for n in door if getattr(package, n).__module__.startswith(f"lab.{room}")}
    assert set(shown) == own and len(shown) == len(own) > 0
    for file in {getattr(package, n).__module__ for n in shown}:
        here = [n for n in shown if getattr(package, n).__module__ == file]
        assert here == [n for n in vars(import_module(file)) if n in here]


def test_a_function_says_in_which_chapters_it_is_used():
    vae = import_module("lab.vae")
    (line, _) = used_in(vae.elbo)
    assert ":doc:`1 </book/latent/01-vae>`" in line and line.startswith("Used in chapter")
    users = lab_reference.users()[reach.Part(Path(vae.bounds.__file__), "elbo")]
    chapters = [p for p in notebook_pages() if chapter(p) is not None]
    assert users == [p for p in chapters if re.search(r"\bvae\.elbo\b|import .*\belbo\b", "\n".join(code(p)))]
    assert {p for pages in lab_reference.users().values() for p in pages} <= set(chapters)
    assert list(used_in(vae.VAE.prior)) == list(used_in(vae)) == list(used_in(3)) == []


def test_what_a_package_only_borrows_is_shown_at_home(monkeypatch):
    vae = import_module("lab.vae")
    before = list(lab_reference.entry(vae))
    monkeypatch.setattr(vae, "Borrowed", import_module("lab.errors").Refused, raising=False)
    assert list(lab_reference.entry(vae)) == before


def test_a_docstring_is_shown_as_it_stands():
    text = list(lab_reference.rst(["A *star*, `code_` and a_b.", "", "    indented  line"]))
    assert text == [r"A \*star\*, ``code_`` and a\_b.", "", "| " + "\u00a0" * 4 + "indented  line", ""]
