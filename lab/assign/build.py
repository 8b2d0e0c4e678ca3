"""From the instructor's source to the student's page and the autograder: `otter assign`, made deterministic."""

import re
import shutil
import tempfile
from pathlib import Path

from .grade import result_files
from .gradescope import pack
from .places import BUILT, PAGES, ROOT, otter, source

FRONT = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def build(name: str, pages: Path | None = None) -> Path:
    """Write the student's page NAME.md into `pages`, or among the book's, and under _build/assignments/NAME the
    reference notebook and the autograder's zip, which Gradescope takes too. Returns the page; `make notebooks` makes
    its notebook."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILT) as place:  # what fails leaves the last build, and no key to its answers
        folder = Path(place, name)
        folder.mkdir()
        master = folder / f"{name}.ipynb"
        notebook(source(name).read_text(encoding="utf-8"), master)
        otter("assign", "--no-pdfs", "--no-run-tests", master.name, "dist", cwd=folder)
        for tests in (folder / "dist/autograder").glob("*.zip"):
            tests.rename(folder / "autograder.zip")
        (folder / "dist/autograder" / master.name).rename(folder / "reference.ipynb")
        pack(folder / "autograder.zip", result_files(folder / "reference.ipynb"))
        shutil.rmtree(BUILT / name, ignore_errors=True)
        folder.rename(BUILT / name)
    pages = pages or PAGES
    pages.mkdir(parents=True, exist_ok=True)
    page = pages / f"{name}.md"
    page.write_text(student_page(BUILT / name / "dist/student" / master.name), encoding="utf-8")
    return page


def notebook(text: str, path: Path) -> None:
    """The source as a notebook whose cell ids are their places, so that the same source gives the same bytes."""
    import jupytext
    import nbformat

    nb = jupytext.reads(text, fmt="md:myst")
    for i, cell in enumerate(nb.cells):
        cell.id = f"cell-{i}"
        if cell.source == "SETUP":
            cell.source = setup()
    nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nb, path)


def setup() -> str:
    """The set-up cell that every chapter begins with, as the first chapter has it."""
    chapter = (ROOT / "book/start/00-cells-are-counts.md").read_text(encoding="utf-8")
    return re.search(r"\[remove-cell\]\n\n(.*?)\n```", chapter, re.S)[1]


def student_page(path: Path) -> str:
    """A student's notebook as a page of the book: text and code, no metadata but the tags that hide the set-up."""
    import nbformat

    parts = [FRONT]
    for cell in nbformat.read(path, as_version=4).cells:
        text = re.sub(r"<!-- (BEGIN|END) QUESTION -->", "", cell.source).strip()
        if cell.cell_type == "code":
            tags = ":tags: [remove-cell]\n\n" if "importlib.util" in text else ""
            parts.append(f"```{{code-cell}} ipython3\n{tags}{text}\n```\n")
        elif text:
            parts.append(text + "\n")
    return "\n".join(parts)
