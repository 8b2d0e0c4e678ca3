"""What the pages label and the site numbers: equations, figures, tables, exercises, theorems, sections."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from contents import ROOT, cells_of, chapter, pages
from myst import walk

HIDDEN = {"remove-cell", "remove-output"}  # tags of cells whose figure the site does not number


@dataclass
class Target:
    """Something that a page labels: what it is called and where it is."""

    page: Path
    kind: str
    number: str
    title: str = ""
    anchor: str = ""


def captioned(cell):
    """The figure (`caption`, `name`) that a code cell draws and the site numbers; empty when it draws none."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {}) if cell.cell_type == "code" else {}
    return figure if figure.get("caption") and not HIDDEN & set(cell.metadata.get("tags", [])) else {}


def kind_of(block):
    """What the site calls and counts such a block; "" for one that it does not number."""
    kind = {"math": "equation", "exercise-start": "exercise"}.get(block.name, block.name).removeprefix("prf:")
    named = {"equation": block.label, "table": block.title, "exercise": True, "figure": True}
    theorem = block.name.startswith("prf:") and kind != "proof"
    return kind if named.get(kind, theorem) and "nonumber" not in block.options else ""


def numbered(page):
    """(label, kind, number, title) of everything on the page that the site numbers, in the page's order."""
    counts = {}

    def number(kind):
        counts[kind] = counts.get(kind, 0) + 1
        return str(counts[kind]) if chapter(page) is None or kind == "equation" else f"{chapter(page)}.{counts[kind]}"

    for cell in cells_of(page):
        if figure := captioned(cell):
            yield figure.get("name"), "figure", number("figure"), ""
        if cell.cell_type == "code":
            continue
        for block in walk(cell.source):
            if kind := kind_of(block):
                yield block.label, kind, number(kind), block.title
        for label, heading in re.findall(r"^\(([\w:.-]+)\)=\n+#+ (.+)$", cell.source, re.M):
            yield label, "section", "", heading


@functools.cache
def targets():
    """label -> Target, over the whole book."""
    return {
        label: Target(page, kind, number, title, f"equation-{label}" if kind == "equation" else label)
        for page in pages()
        if (ROOT / page).exists()
        for label, kind, number, title in numbered(page)
        if label
    }
