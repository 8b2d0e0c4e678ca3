"""`{lab-reference} models`: the reference page of one tier of `lab`, its rooms with their docstrings, by autodoc.

Tiers, their order and their rooms are read from the floor plan, which is `lab`'s docstring. Every function and class
says in which chapters it is used. Docstrings are written for the terminal, so their text is shown as it stands:
paragraphs, code in backticks, indented lines verbatim.
"""

import ast
import functools
import importlib
import pkgutil
import re
import sys
import types
from collections import defaultdict
from pathlib import Path

import reach
from contents import chapter, notebook_pages
from docutils.parsers.rst import Parser
from docutils.utils import new_document
from sphinx.util.docutils import SphinxDirective


def tiers():
    """Tier -> its rooms, in the order in which they stand: a heading line, then an indented line for each."""
    plan = ast.get_docstring(ast.parse((reach.LAB / "__init__.py").read_text()))
    found = re.findall(r"^(\w+), .*\n((?:    .+\n?)+)", plan, re.M)
    return {tier: re.findall(r"^    (\w+)", rooms, re.M) for tier, rooms in found}


def pages():
    """The reference pages, as Sphinx names them."""
    return [f"book/appendix/reference-{tier}" for tier in tiers()]


def reference(tier):
    """The page's body in reStructuredText, a section a room."""
    for room in tiers()[tier]:
        title = "python -m lab" if room == "__main__" else f"lab.{room}"
        yield f"{title}\n{'-' * len(title)}\n"
        if room == "__main__":  # importing it is running it: its docstring is the manual
            yield from rst(ast.get_docstring(ast.parse((reach.LAB / "__main__.py").read_text())).splitlines())
            continue
        module = importlib.import_module(f"lab.{room}")
        yield from parts(module) if tier == "edges" else entry(module)


def entry(module):
    """A module; of a package what it shows at its door, each thing where its own files define it and in their order."""
    if not hasattr(module, "__path__"):
        yield f".. automodule:: {module.__name__}\n   :members:\n"
        return
    yield f".. automodule:: {module.__name__}\n"
    shown = {name: getattr(module, name) for name in getattr(module, "__all__", vars(module)) if name[0] != "_"}
    homes = {n: getattr(it, "__module__", None) for n, it in shown.items()}  # the file in which each is defined
    own = [n for n, home in homes.items() if str(home).startswith(module.__name__)]
    files = list(dict.fromkeys(homes[n] for n in own))
    for name in sorted(own, key=lambda n: (files.index(homes[n]), list(vars(sys.modules[homes[n]])).index(n))):
        kind = "class" if isinstance(shown[name], type) else "function"
        yield f".. auto{kind}:: {module.__name__}.{name}\n" + "   :members:\n" * (kind == "class")
    for it in shown.values() if hasattr(module, "__all__") else ():
        if isinstance(it, types.ModuleType):  # a family of functions: data.toys
            yield from entry(it)


def parts(package):
    """A package that is no one's to import from: what it is, then its files one by one."""
    yield f".. automodule:: {package.__name__}\n"
    for file in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
        yield f"{file.name}\n{'~' * len(file.name)}\n"
        yield f".. automodule:: {file.name}\n   :members:\n"


@functools.cache
def users():
    """(file, name) of what `lab` defines -> the chapters whose code names it."""
    found = defaultdict(list)
    for page in filter(lambda page: chapter(page) is not None, notebook_pages()):
        for part in set().union(*map(reach.find, reach.asked_for(page))):
            found[part].append(page)
    return found


def used_in(obj):
    """The line below a function or class that links to the chapters in which it is used."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if chapters := users().get((Path(file), name)):
        links = ", ".join(f":doc:`{chapter(page)} </{page.with_suffix('')}>`" for page in chapters)
        yield f"Used in chapter{'s' * (len(chapters) > 1)} {links}."
        yield ""


class LabReference(SphinxDirective):
    """Parse the generated page as reStructuredText, which is what autodoc writes."""

    required_arguments = 1

    def run(self):
        document = new_document("lab-reference", self.state.document.settings)
        document.settings.env = self.env
        Parser().parse("\n".join(reference(self.arguments[0])), document)
        for node in document.findall():
            node.document = self.state.document
        return document.children


def rst(lines):
    """A docstring as reStructuredText that cannot be misread: markup escaped, indented lines as they stand."""
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        head, *rest = paragraph.split("\n")
        if paragraph.startswith((" ", ">>>")) or any(line.startswith(("  ", "- ", "* ")) for line in rest):
            yield from (f"| {escaped(line)}" for line in paragraph.split("\n"))
        else:
            yield from (escaped(line) for line in paragraph.split("\n"))
        yield ""


def escaped(line):
    """`code` becomes a literal, all else that could be markup is escaped; leading spaces are kept."""
    indent = len(line) - len(line.lstrip())
    parts = re.split(r"(`+[^`]+`+)", line.strip())
    return "\u00a0" * indent + "".join(
        f"``{p.strip('`')}``" if i % 2 else re.sub(r"([\\*_|<>`:])", r"\\\1", p) for i, p in enumerate(parts)
    )


def described(app, what, name, obj, options, lines):
    """autodoc's docstrings, through `rst`, with the chapters."""
    lines[:] = [*rst(lines), *used_in(obj)]


def setup(app):
    app.add_directive("lab-reference", LabReference)
    app.connect("autodoc-process-docstring", described)
    return {"parallel_read_safe": True}
