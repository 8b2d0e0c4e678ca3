"""`{lab-reference}`: the package's reference page, every module of `lab` with its docstrings, by Sphinx's autodoc.

Docstrings are written for the terminal, so their text is shown as it stands: paragraphs, code in backticks, indented
lines verbatim.
"""

import ast
import importlib
import re
import types

import execute
from docutils.parsers.rst import Parser
from docutils.utils import new_document
from sphinx.util.docutils import SphinxDirective

FOUNDATIONS = ["path", "dist", "nets", "data", "train", "sample", "metrics", "plot"]  # each imports those before it
MODELS = ["vae", "disentangle", "score", "diffusion", "flow", "ebm", "jepa", "world", "ssm"]
APPLICATIONS = ["expression", "perturb", "embed", "synth", "imaging", "transcriptome"]
ORDER = FOUNDATIONS + MODELS + APPLICATIONS
PAGE = "book/appendix/reference"


def modules():
    """Names of the package's modules, in the order in which they may import one another; edges last."""
    found = {p.stem for p in (execute.ROOT / "lab").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()} - {
        "__init__"
    }
    return sorted(found, key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))


def reference():
    """The page's body in reStructuredText."""
    for name in modules():
        full = f"lab.{name}"
        title = "The command line: python -m lab" if name == "__main__" else full
        yield f"{title}\n{'-' * len(title)}\n"
        if name == "__main__":  # importing it is running it: its docstring is the manual
            yield from rst(ast.get_docstring(ast.parse((execute.ROOT / "lab/__main__.py").read_text())).splitlines())
            yield ""
            continue
        module = importlib.import_module(full)
        parts = [m for m in getattr(module, "__all__", []) if isinstance(getattr(module, m), types.ModuleType)]
        yield f".. automodule:: {full}\n   :members:\n" + (
            "   :imported-members:\n" if hasattr(module, "__path__") else ""
        )
        yield from (f".. automodule:: {full}.{part}\n   :members:\n" for part in parts)


class LabReference(SphinxDirective):
    """Parse the generated page as reStructuredText, which is what autodoc writes."""

    def run(self):
        document = new_document("lab-reference", self.state.document.settings)
        document.settings.env = self.env
        Parser().parse("\n".join(reference()), document)
        for node in document.findall():
            node.document = self.state.document
        return document.children


def rst(lines):
    """A docstring as reStructuredText that cannot be misread: markup escaped, indented lines as they stand."""
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        head, *rest = paragraph.split("\n")
        if paragraph.startswith(" ") or any(line.startswith(("  ", "- ", "* ")) for line in rest):
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


def plain_docstring(app, what, name, obj, options, lines):
    lines[:] = list(rst(lines))


def setup(app):
    app.add_directive("lab-reference", LabReference)
    app.connect("autodoc-process-docstring", plain_docstring)
    return {"parallel_read_safe": True}
