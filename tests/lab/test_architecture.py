"""The shape of the package: tiers, one import direction, modules that fit one sitting, docstrings everywhere.

The floor plan is `lab`'s own docstring: a heading line a tier, an indented line a room.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "lab"
LIMIT = 200  # lines a module, here and in book/_ext; 150 is the aim


def tiers(plan):
    """Tier -> its rooms in their order."""
    found = re.findall(r"^(\w+), .*\n((?:    .+\n?)+)", plan, re.M)
    return {tier: re.findall(r"^    (\w+)", rooms, re.M) for tier, rooms in found}


TIERS = tiers(ast.get_docstring(ast.parse((LAB / "__init__.py").read_text())))
FOUNDATIONS, MODELS, EDGES = TIERS["foundations"], TIERS["models"], ["__init__", *TIERS["edges"]]
APPLICATIONS = TIERS.get("applications", [])
ROOMS = {*FOUNDATIONS, *MODELS, *APPLICATIONS, *EDGES}
FILES = sorted(LAB.rglob("*.py"))


def room_of(file):
    return file.relative_to(LAB).parts[0].removesuffix(".py")


def allowed(room):
    """The rooms that `room` may import from."""
    if room in EDGES:
        return ROOMS
    if room in FOUNDATIONS:
        return set(FOUNDATIONS[: FOUNDATIONS.index(room) + 1])
    return {room, *FOUNDATIONS, *(MODELS if room in APPLICATIONS else ())}


def lab_imports(source, file):
    """(line, room) for every import from `lab`, absolute or relative, on top or inside a function."""
    package = ["lab", *file.relative_to(LAB).parts[:-1]]
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
        f"{file.name}:{line} imports lab.{room}"
        for line, room in lab_imports(source, file)
        if room in ROOMS and room not in allowed(room_of(file))
    ]


each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


@each_file
def test_a_module_imports_only_what_stands_before_it(file):
    assert not against_the_direction(file.read_text(), file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("dist/gaussian.py", "from lab import vae"),
        ("dist/gaussian.py", "import lab.train"),
        ("dist/gaussian.py", "from ..train import steps"),
        ("path.py", "def f():\n    from . import vae"),
        ("disentangle.py", "from lab.vae import VAE"),
        ("vae/cells.py", "from ..command import main"),
    ],
)
def test_an_import_against_the_direction_is_seen(file, source):
    assert against_the_direction(source, LAB / file)


def test_applications_may_import_models_but_never_one_another(monkeypatch):
    monkeypatch.setattr(f"{__name__}.APPLICATIONS", ["synth", "embed"])
    monkeypatch.setattr(f"{__name__}.ROOMS", ROOMS | {"synth", "embed"})
    assert not against_the_direction("from lab import vae, data", LAB / "synth.py")
    assert against_the_direction("from lab.embed import encoder", LAB / "synth.py")
    assert against_the_direction("from lab.synth import report", LAB / "vae/cells.py")


def test_the_floor_plan_names_every_room_that_stands_and_no_other():
    assert {room_of(f) for f in FILES} == ROOMS
    assert sum(map(len, TIERS.values())) == len(set().union(*TIERS.values())), "a room stands in one tier"
    assert list(TIERS) == [t for t in ("foundations", "models", "applications", "edges") if t in TIERS]


def test_a_line_that_goes_on_is_no_room():
    plan = "lab: a package, of rooms\n\nfoundations, first\n    path    paths\n            and more\n    dist    laws\n"
    assert tiers(plan) == {"foundations": ["path", "dist"]}


@pytest.mark.parametrize(
    "file", FILES + sorted((ROOT / "book/_ext").glob("*.py")), ids=lambda f: str(f.relative_to(ROOT))
)
def test_a_module_fits_one_sitting_and_says_what_it_is(file):
    assert ast.get_docstring(ast.parse(file.read_text()))
    assert file.read_text().count("\n") <= LIMIT, f"{LIMIT} lines is the limit; split it"


@each_file
def test_what_is_public_explains_itself(file):
    body = ast.parse(file.read_text()).body
    public = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


@pytest.mark.parametrize("file", [f for f in FILES if room_of(f) not in EDGES], ids=lambda f: str(f.relative_to(ROOT)))
def test_the_library_sets_no_global_random_state(file):
    """A seed is the notebook's to set; the library may set one only inside `fork_rng`, which restores the old state."""
    tree = ast.parse(file.read_text())
    forks = [n for n in ast.walk(tree) if isinstance(n, ast.With) and "fork_rng" in ast.unparse(n.items[0])]
    forked = {n for fork in forks for n in ast.walk(fork)}
    seeds = {"torch.manual_seed", "np.random.seed", "random.seed", "numpy.random.seed"}
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in seeds]
    assert [n.lineno for n in calls if n not in forked] == []
