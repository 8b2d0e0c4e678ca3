"""The shape of the package: three tiers, one import direction, modules that fit one sitting, docstrings everywhere."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

from lab_reference import APPLICATIONS, FOUNDATIONS, MODELS

EDGES = [
    "__init__",
    "__main__",
    "commands",
    "run",
    "assign",
    "checks",
]  # may import anything; `commands` and `run` are `python -m lab train`
FILES = sorted((ROOT / "lab").rglob("*.py"))


def module_of(file):
    return file.relative_to(ROOT / "lab").parts[0].removesuffix(".py")


def allowed(module):
    """The modules of `lab` that `module` may import."""
    if module in EDGES:
        return set(FOUNDATIONS + MODELS + APPLICATIONS + EDGES)
    if module in FOUNDATIONS:
        return set(FOUNDATIONS[: FOUNDATIONS.index(module) + 1])
    return {module} | set(FOUNDATIONS) | (set(MODELS) if module in APPLICATIONS else set())


def lab_imports(source, file):
    """(line, module) for every `lab` module that the source imports, absolutely or relatively."""
    package = ["lab", *file.relative_to(ROOT / "lab").parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], node.module] if node.level else [node.module]
            names = [".".join(filter(None, [*base, a.name])) for a in node.names]
        else:
            continue
        yield from ((node.lineno, n.split(".")[1]) for n in names if n.startswith("lab."))


def against_the_direction(source, file):
    return [
        f"{file.name}:{line} imports lab.{name}"
        for line, name in lab_imports(source, file)
        if name in FOUNDATIONS + MODELS + APPLICATIONS + EDGES and name not in allowed(module_of(file))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(file):
    assert not against_the_direction(file.read_text(), file)


@pytest.mark.parametrize(
    "source", ["from lab import vae", "import lab.train", "from .train import steps", "def f():\n    from . import vae"]
)
def test_an_import_against_the_direction_is_seen(source):
    assert against_the_direction(source, ROOT / "lab/dist.py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_module_fits_one_sitting_and_explains_itself(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "a module says what it is"
    assert file.read_text().count("\n") <= 300, "300 lines is the limit; split it"
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


def test_every_module_has_its_place():
    assert {module_of(f) for f in FILES} <= set(FOUNDATIONS + MODELS + APPLICATIONS + EDGES)


@pytest.mark.parametrize(
    "file", [f for f in FILES if module_of(f) not in EDGES], ids=lambda f: str(f.relative_to(ROOT))
)
def test_the_library_sets_no_global_random_state(file):
    """A seed is the notebook's to set; the library may set one only inside `fork_rng`, which restores the old state."""
    tree = ast.parse(file.read_text())
    forked = {
        n
        for w in ast.walk(tree)
        if isinstance(w, ast.With) and "fork_rng" in ast.unparse(w.items[0])
        for n in ast.walk(w)
    }
    seeds = {"torch.manual_seed", "np.random.seed", "random.seed", "numpy.random.seed"}
    assert [
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in seeds and n not in forked
    ] == []
