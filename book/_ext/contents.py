"""The book's pages: which there are, what is on them, where the site has them."""

import functools
import re
from pathlib import Path

import yaml
from jupyter_cache.readers import get_reader
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def config():
    """What `_config.yml` says."""
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def pages():
    """Every page of the table of contents, in order, as a path relative to the root."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [Path(e + ".md") for e in entries]


def notebook_pages():
    """The pages that are notebooks: their front matter names a kernel."""
    return [p for p in pages() if re.match(r"---\n.*?^kernelspec:.*?^---$", (ROOT / p).read_text(), re.M | re.S)]


def chapter(page):
    """The chapter's number; None for a page that is no chapter."""
    number = re.match(r"(\d\d)-", Path(page).name)
    return int(number[1]) if number else None


def read(page):
    """The page as an unexecuted notebook, through the reader that the Sphinx build uses."""
    return get_reader({"name": "myst_nb_md", "type": "plugin"})(str(ROOT / page))


def code(page):
    """The sources of the page's code cells."""
    return [c.source for c in read(page).cells if c.cell_type == "code"]


def cells_of(page):
    """The page's cells; a page that is no notebook is one Markdown cell."""
    if page in notebook_pages():
        return read(page).cells
    return [new_markdown_cell(re.sub(r"\A---\n.*?\n---\n", "", (ROOT / page).read_text(), flags=re.S))]


def title_of(page):
    """The page's first heading."""
    return re.search(r"^# (.+)$", (ROOT / page).read_text(), re.M)[1].strip()


def site_url(page, anchor=""):
    """The page's address on the published site: GitHub Pages, unless `html: baseurl` names another."""
    owner, name = config()["repository"]["url"].rstrip("/").split("/")[-2:]
    base = config().get("html", {}).get("baseurl") or f"https://{owner}.github.io/{name}"
    return f"{base.rstrip('/')}/{page.with_suffix('.html').as_posix()}{'#' if anchor else ''}{anchor}"


def raw_url(path):
    """The address of a file as it stands in the repository."""
    repository = config()["repository"]
    raw = repository["url"].replace("github.com", "raw.githubusercontent.com")
    return f"{raw}/{repository['branch']}/{path.as_posix()}"
