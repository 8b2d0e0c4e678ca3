"""Which parts of `lab` a page reaches, name by name: its outputs depend on these and on no others.

`from lab.nets import mlp`, or `nets.mlp` after `from lab import nets`, leads through `lab/nets/__init__.py` to the file
that defines `mlp`, and on to all that this file uses. Such a file counts whole; of an `__init__.py`, which passes names
on, only the definitions that are reached. What cannot be followed (a module handed around, a star, `getattr`,
`python -m lab`) counts for all that it may lead to. One thing is taken on trust: that importing a file of `lab` does
nothing but define its names.
"""

import ast
from pathlib import Path
from typing import NamedTuple

from contents import ROOT, code
from IPython.core.inputtransformer2 import TransformerManager
from uses import defined, imported, is_text, parsed, references, used_by

LAB = ROOT / "lab"
WHOLE = "*"


class Part(NamedTuple):
    """A file of `lab` and the name looked for in it; of an `__init__.py` only what defines this name counts, and under
    the name "" what else it runs."""

    file: Path
    name: str = WHOLE

    @property
    def whole(self):
        return self.file.name != "__init__.py" or self.name == WHOLE

    def tree(self):
        return parsed(self.file.read_text() if self.file.suffix == ".py" else "")

    def statements(self):
        """The statements that count."""
        if self.whole or self.name:
            return [n for n in self.tree().body if self.whole or self.name in defined(n)]
        return [n for n in self.tree().body if not (defined(n) or passes_on(n))]

    def content(self):
        """What a change is seen by."""
        return self.file.read_bytes() if self.whole else "\n".join(map(ast.unparse, self.statements())).encode()


def passes_on(statement):
    """Whether it is an import or a docstring."""
    is_docstring = isinstance(statement, ast.Expr) and is_text(statement.value)
    return is_docstring or isinstance(statement, ast.Import | ast.ImportFrom)


def asked_for(page):
    """The dotted names of `lab` that a page's code cells use."""
    return used_by("\n".join(map(TransformerManager().transform_cell, code(page))))


def onward(part, dynamic=True):
    """The dotted names that a part of `lab` uses in turn; of a whole file also those that it only passes on."""
    package = part.file.relative_to(LAB).parent.parts
    bound = imported(part.tree(), package)
    for name in set() if part.whole else set().union(*map(defined, part.tree().body)):
        bound[name].add((*package, name))
    return references(part.statements(), bound, part.whole, package, dynamic)


def inside(names):
    """The package in which a dotted name of a module lies, and what is left of the name."""
    folder = LAB
    while names and (folder / names[0] / "__init__.py").exists():
        folder, names = folder / names[0], names[1:]
    return folder, names


def find(names):
    """The parts of `lab` that may define a dotted name, sought through the `__init__` files that pass it on."""
    todo, seen, found = [(LAB, tuple(names))], set(), set()
    while todo:
        folder, names = step = todo.pop()
        if step in seen:
            continue
        seen.add(step)
        init = Part(folder / "__init__.py", "")
        found.add(init)
        if not names:
            found |= {Part(f) for f in files(folder)}
            continue
        name, *rest = names
        here = {Part(f, *rest[:1]) for f in [folder / f"{name}.py"] if f.exists()}
        here |= {Part(init.file, name) for n in init.tree().body if name in defined(n)}
        ways = [(folder / name, tuple(rest))] if (folder / name / "__init__.py").exists() else []
        passed_on = imported(init.tree(), folder.relative_to(LAB).parts)
        for target in passed_on[name]:
            module, left = inside(target[:-1])
            if left:
                here.add(Part(module / f"{left[0]}.py", target[-1]))
            else:
                ways.append((module, (*target[-1:], *rest)))
        if not (ways or here):  # `__getattr__` finds it: a file of this name, what defines it, or else anything
            python = [f for f in files(folder) if f.suffix == ".py"]
            here = {Part(f, *rest[:1]) for f in python if f.stem == name}
            here |= {Part(f, name) for f in python if any(name in defined(n) for n in Part(f).tree().body)}
            ways = [] if here else [(folder, ())]
            here |= {Part(init.file, "__getattr__")}
        found |= here
        todo += ways
    return found


def files(folder):
    """All files below a folder that are not Python's own."""
    return {f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}


def beside(folder):
    """The package data of a folder: what is no Python and in no package below."""
    packages = {init.parent for init in folder.rglob("*/__init__.py")}
    return {f for f in files(folder) if f.suffix != ".py" and not packages.intersection(f.parents)}


def shipped(names):
    """The package data that a dotted name reads: `shipped.open("a")` reads `lab/shipped/a.*`, without a text any."""
    room, _, name = (*names, None, None, None)[:3]
    data = beside(LAB / "shipped") if room == "shipped" else ()
    return {Part(f) for f in data if name is None or f.name.startswith(f"{name}.")}


def reach(names):
    """All parts of `lab` that these dotted names lead to."""
    reached, asked, todo = set(), set(), {(name, "") for name in names}
    while todo:
        name, by = step = todo.pop()
        asked.add(step)
        for part in find(name) | (set() if by == "shipped" else shipped(name)):
            part = Part(part.file) if part.whole else part
            how = by
            if LAB / "shipped" in part.file.parents:
                how = "shipped"  # which reads the files that others ask it for
            elif part.name == "__getattr__":
                how = part.name  # what it and its helpers import is what `find` has found
            if (part, how) not in reached:
                reached.add((part, how))
                todo |= {(n, how) for n in onward(part, dynamic=how != "__getattr__")} - asked
    parts = {part for part, _ in reached}
    return parts | {Part(f) for folder in {p.file.parent for p in parts} - {LAB / "shipped"} for f in beside(folder)}
