"""Write the reader notebook beside each notebook page: `python book/_ext/reader.py` (`make notebooks`).

What Colab, Binder and JupyterLab open: plain Markdown instead of MyST, and the page's own code cells, already executed.
The text outputs stay, as the reference that nbval compares with; pictures and HTML go: the reader's run draws them.
A reference is written only when two jittered runs (jitter.py), which stand for other processors, print it too.
"""

import hashlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import execute
import nbformat
from contents import ROOT, chapter, config, notebook_pages, read, site_url
from labels import captioned, numbered
from myst import walk
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rendering import details, markdown
from roles import prose

KEPT = ("text/plain", "text/markdown")
BEGINS = r"^(?=(?:`{3,}|:{3,})\{(?:exercise-start|solution-start|solution-end)\})"


def setup_cell():
    """The code every chapter begins with."""
    return f"""# Colab has all but this book's own package; what is there (torch, numpy, IPython) stays as it is.
import importlib.util
import os

if importlib.util.find_spec("lab") is None:
    %pip install -q "generating-cells @ git+{config()["repository"]["url"]}"
os.environ.setdefault("ACCELERATE_USE_CPU", "true")      # small models: also where there is a GPU
os.environ.setdefault("OMP_WAIT_POLICY", "passive")       # threads that wait leave the processor to others

import torch

from lab import plot

torch.manual_seed(0)
plot.style()"""


def outputs_of(cell):
    """What nbval compares: printed text and the text form of results. Nothing for a cell whose output it ignores."""
    kept = []
    for out in [] if "nbval-ignore-output" in cell.metadata.get("tags", []) else cell.outputs:
        if out.output_type == "stream":
            if out.name == "stdout" and kept and kept[-1].output_type == "stream":
                kept[-1].text += out.text
            elif out.name == "stdout":
                kept.append(out.copy())
        elif out.output_type in {"display_data", "execute_result"}:
            out = nbformat.from_dict({**out, "data": {k: v for k, v in out.data.items() if k in KEPT}, "metadata": {}})
            kept += [out] if out.data else []
    return kept


def code_cell(cell, hidden, executed):
    """The page's code cell with its tags; one that only draws is folded, and a solution's with what it prints."""
    new = new_code_cell(cell.source)
    if cell.metadata.get("tags"):
        new.metadata["tags"] = list(cell.metadata["tags"])
    if hidden or "hide-input" in new.metadata.get("tags", ()):
        new.metadata["cellView"] = "form"
        new.metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if hidden else {})
    if executed:
        new.outputs, new.execution_count = outputs_of(cell), cell.execution_count
    return new


def reader_notebook(page, executed=None):
    """The page's reader notebook; `executed` is the page's notebook with outputs, without it there are none."""
    cells, solving = [], False
    figures = iter([n for _, kind, n, _ in numbered(page) if kind == "figure"])
    for cell in (executed or read(page)).cells:
        if cell.cell_type == "code":
            cells.append(code_cell(cell, solving, executed))
            if figure := captioned(cell):
                cells.append(new_markdown_cell(f"**Figure {next(figures)}.** {prose(page, figure['caption'].strip())}"))
            continue
        explains = solving  # a cell that stands within a solution begins with what the solution says
        for block in walk(cell.source):
            solving = {"solution-start": True, "solution-end": False}.get(block.name, solving)
            next(figures) if block.name == "figure" else None
        # An exercise and its solution each begin a cell, so that a notebook's outline can fold them.
        for i, part in enumerate(re.split(BEGINS, cell.source, flags=re.M)):
            text = markdown(page, part).strip()
            heading, _, said = text.partition("\n")
            if explains and not i and text:
                text = details("What it shows", text)
            elif heading.startswith("#### Solution") and said.strip():
                text = f"{heading}\n\n{details('What it says', said.strip())}"
            cells += [new_markdown_cell(text)] if text else []
    title, _, rest = cells[0].source.partition("\n")
    head = f"[Generating Cells]({site_url(page)}) · this notebook is the page, ready to run from top to bottom."
    if chapter(page) is not None:
        head += " Its assertions are claims about the page's own numbers: change one, and an assertion may fail."
    cells[0].source = f"{title}\n\n{head}\n{rest}".rstrip()
    return finish(cells)


def finish(cells):
    """Ids from content, so that a change in one cell leaves the others' alone; metadata that no machine changes."""
    seen = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def printed(nb):
    """What a reference is: code cells and their outputs."""
    return [(c.source, c.outputs, c.metadata.get("tags")) for c in nb.cells if c.cell_type == "code"]


def elsewhere(path, seed):
    """What nbval says against the notebook's outputs when its kernel is another processor's; None where they agree."""
    nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", str(execute.TIMEOUT), "-p", "no:cacheprovider"]
    line = [sys.executable, "-m", "pytest", "-q", *nbval, str(path)]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | {"LAB_JITTER": seed}, capture_output=True, text=True)
    return done.stdout if done.returncode else None


def main():
    """Write them all, from the cache that execute.py has filled; true where one could not be kept."""
    cache, before = execute.open_cache(), {}
    for page in notebook_pages():
        _, executed = cache.merge_match_into_notebook(read(page))
        nb, path = reader_notebook(page, executed), ROOT / page.with_suffix(".ipynb")
        nbformat.validate(nb)
        old = path.read_text() if path.exists() else None
        if old is None or printed(nbformat.reads(old, as_version=4)) != printed(nb):
            before[path] = old
        nbformat.write(nb, path)
        print(page.with_suffix(".ipynb"))
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(elsewhere, *zip(*[(path, seed) for path in before for seed in "12"]))) if before else []
    wrong = {path: a or b for path, a, b in zip(before, said[::2], said[1::2]) if a or b}
    for path, why in wrong.items():
        path.unlink() if before[path] is None else path.write_text(before[path])
        print(f"{why}\n{path.name} stays as it was: another processor prints something else; round it, or assert it")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
