"""The reader notebooks beside the pages: regenerated and compared, complete, and readable where MyST is unknown."""

import builtins
import json
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import nbformat
import pytest
import reader
from contents import ROOT, notebook_pages, read
from myst import DIRECTIVES, blocks, walk
from rendering import markdown

PAGES = notebook_pages()
on_every_page = pytest.mark.parametrize("page", PAGES, ids=str)


def committed(page):
    path = ROOT / page.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: run `make notebooks`"
    return nbformat.read(path, as_version=4)


@on_every_page
def test_the_reader_notebook_is_what_the_page_generates(page):
    ours, theirs = reader.reader_notebook(page), committed(page)
    assert theirs.metadata == ours.metadata
    for new, old in zip(ours.cells, theirs.cells):
        assert (old.cell_type, old.source, old.metadata, old.id) == (new.cell_type, new.source, new.metadata, new.id), (
            "run `make notebooks`"
        )
    assert len(ours.cells) == len(theirs.cells), "run `make notebooks`"


@on_every_page
def test_every_code_cell_was_executed_in_order(page):
    """nbval runs a cell without a count but compares nothing, so its reference would pass unseen."""
    counts = [c.execution_count for c in committed(page).cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@on_every_page
def test_what_draws_is_folded_and_a_solution_with_what_it_prints_and_says(page):
    solving = False
    for cell in committed(page).cells:
        if cell.cell_type == "code":
            folded = cell.metadata.get("jupyter", {})
            assert not solving or folded == {"source_hidden": True, "outputs_hidden": True}, cell.source[:80]
            draws = "hide-input" in cell.metadata.get("tags", ())
            assert folded.get("source_hidden", False) == (solving or draws) == (cell.metadata.get("cellView") == "form")
        elif cell.source.startswith("#"):
            heading, _, said = cell.source.partition("\n")
            solving = heading.startswith("#### Solution")
            assert not solving or not said.strip() or said.strip().startswith("<details>"), cell.source[:80]
        else:
            assert not solving or cell.source.startswith("<details>"), cell.source[:80]


@on_every_page
def test_the_kept_outputs_are_text_that_no_machine_or_run_changes(page):
    for cell in committed(page).cells:
        for out in cell.get("outputs", []):
            assert out.output_type != "error" and out.get("name") != "stderr"
            assert set(out.get("data", {})) <= set(reader.KEPT)
            shown = json.dumps(out)
            assert " at 0x" not in shown, f"the address of an object differs in every run: {cell.source[-80:]}"
            assert str(ROOT) not in shown


@on_every_page
def test_colab_shows_no_raw_myst(page):
    for cell in committed(page).cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"^```.*?^```$|`[^`\n]+`(?!`)", "", cell.source, flags=re.M | re.S)
            raw = re.search(r"^:{3,}|^`{3,}\{|^\([\w:.-]+\)=$|\{\w+(:\w+)?\}`", prose, re.M)
            assert not raw, raw[0]


@on_every_page
def test_the_page_keeps_to_the_directives_that_have_a_form_in_a_notebook(page):
    for cell in read(page).cells:
        if cell.cell_type == "markdown":
            for block in walk(cell.source):
                assert block.name in DIRECTIVES | {"text", "code", "equation"}, (
                    f"{{{block.name}}} is not in the subset of book/_ext/myst.py"
                )
                assert "{code-cell}" not in block.body, (
                    "a code cell inside a directive never runs: use solution-start and solution-end"
                )


@on_every_page
def test_most_outputs_are_compared(page):
    code = [c for c in committed(page).cells if c.cell_type == "code"]
    assert sum("nbval-ignore-output" in c.metadata.get("tags", []) for c in code) <= len(code) / 3


def test_a_directive_outside_the_subset_is_refused():
    with pytest.raises(ValueError, match="list-table"):
        markdown(Path("book/index.md"), "```{list-table}\n- a\n```")


def test_blocks_nest_and_keep_their_options():
    outer = list(
        blocks("````{note} A title\n:class: tip\n\n```{math}\n:label: eq-a\nx\n```\n````\n\n$$\ny\n$$ (eq-b)\n")
    )
    assert [(b.name, b.label) for b in outer] == [("note", None), ("equation", "eq-b")]
    assert outer[0].options == {"class": "tip"} and [(b.name, b.label) for b in blocks(outer[0].body)] == [
        ("math", "eq-a")
    ]


def test_blocks_are_what_the_site_reads():
    """A fence hides what it holds; a formula or a box inside a list is the list's."""
    shown = "````text\n```{note}\nx\n```\n$$\ny\n$$\n````\n\n- item\n\n  ```{tip}\n  x\n  ```\n\n:::{note} T\nz\n:::\n"
    assert [(b.name, b.title) for b in blocks(shown)] == [("code", ""), ("text", ""), ("note", "T")]
    options = "```{figure} a.png\n---\nname: fig-a\nalt: |\n  Two words: here\n---\nCaption.\n```\n"
    (figure,) = blocks(options)
    assert figure.label == "fig-a" and figure.options["alt"].strip() == "Two words: here" and figure.body == "Caption."


def test_no_extension_has_the_name_of_another_module():
    """Sphinx puts their folder on the path, where each hides a module of the same name or is hidden by it."""
    ours = ROOT / "book/_ext"
    elsewhere = [p for p in sys.path if Path(p).resolve() != ours]
    for name in (f.stem for f in ours.glob("*.py")):
        assert name not in sys.stdlib_module_names and not hasattr(builtins, name), name
        assert PathFinder.find_spec(name, elsewhere) is None, name


def test_make_hides_the_machine_from_what_is_published():
    """No data set of the machine's, one thread for each kernel, no GPU."""
    names = ("LAB_DATA", "MPLBACKEND", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    program = "import os, sys; print([os.environ.get(name) for name in sys.argv[1:]])"
    extra = f"show:\n\t@'{sys.executable}' -c \"{program}\" {' '.join(names)}\n"
    env = {"PATH": "/usr/bin:/bin", "LAB_DATA": "/data", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "8"}
    out = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "show"],
        cwd=ROOT,
        env=env,
        input=extra,
        capture_output=True,
        text=True,
    )
    assert out.stdout.strip() == "[None, None, '1', '']", out.stderr
