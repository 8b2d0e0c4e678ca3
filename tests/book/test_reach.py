"""Which pages run again: those whose code reaches, name by name, what has changed in `lab`, and no others."""

import shutil

import execute
import pytest
import reach
from contents import ROOT, chapter, notebook_pages
from IPython.core.inputtransformer2 import TransformerManager
from uses import used_by

PAGES = [p for p in notebook_pages() if p.parent.name != "assignments"]  # homework imports what only answers use
ASKED = {page: reach.asked_for(page) for page in PAGES}
ONE, COUNTS = (next(p for p in PAGES if chapter(p) == n) for n in (1, 0))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A copy of the package, to change."""
    copy = shutil.copytree(reach.LAB, tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(reach, "LAB", copy)
    return copy


def keys():
    return {page: execute.digest(reach.reach(names)) for page, names in ASKED.items()}


def run_again(change):
    """The pages whose key is another after the change."""
    before = keys()
    change()
    after = keys()
    return {page for page in PAGES if before[page] != after[page]}


def write(file, text, mode="a"):
    file.parent.mkdir(exist_ok=True)
    with file.open(mode, encoding="utf-8") as out:
        out.write(text)


def that_use(*names):
    """The pages that name one of these."""
    return {page for page, asked in ASKED.items() if {name[:2] for name in asked} & set(names)}


def names_of(parts):
    return {str(part.file.relative_to(reach.LAB)) for part in parts}


def reached(source):
    return names_of(reach.reach(used_by(TransformerManager().transform_cell(source))))


def test_a_new_file_of_a_room_runs_no_page_again_though_the_room_passes_it_on(lab):
    def pooling():
        write(lab / "nets/pooling.py", "class Pooling:\n    pass\n")
        write(lab / "nets/__init__.py", "from .pooling import Pooling\n")

    assert run_again(pooling) == set()


def test_a_changed_file_runs_the_pages_again_that_reach_it(lab):
    again = run_again(lambda: write(lab / "nets/mlp.py", "\n"))
    assert ONE in again and COUNTS not in again
    assert run_again(lambda: write(lab / "plot.py", "\n")) == that_use(("plot", "style"))


def test_what_a_reached_file_imports_is_reached(lab):
    assert {"vae/cells.py", "vae/bounds.py", "nets/conditions.py"} <= reached("from lab.vae import count_vae")
    assert "vae/results.py" not in reached("from lab.vae import count_vae")
    write(lab / "vae/cells.py", "\ndef late():\n    from . import results\n    return results.annotate\n")
    assert "vae/results.py" in reached("from lab.vae import count_vae")


def test_a_name_is_followed_through_another_name_and_leads_nowhere_else(lab):
    write(
        lab / "nets/__init__.py", "\nfrom .mlp import TimeEmbedding as Clock\nfrom lab.dist import gaussian as bell\n"
    )
    assert "nets/mlp.py" in reached("from lab import nets as n\nn.Clock(8)")
    assert names_of(reach.find(("nets", "bell"))) == {
        "__init__.py",
        "nets/__init__.py",
        "dist/__init__.py",
        "dist/gaussian.py",
    }


def test_an_import_that_only_the_program_knows_counts_for_all_it_may_lead_to(lab):
    assert "data/catalogue/kang.py" in reached("from lab import data\ndata.sets()")
    assert "vae/cells.py" not in reached("from lab import data\ndata.sets()"), "it says that it stays in its room"
    write(lab / "metrics/distances.py", "\n\ndef any_room(name):\n    return importlib.import_module('lab.' + name)\n")
    assert {"vae/cells.py", "plot.py"} <= reached("from lab.metrics import mmd")


def test_a_docstring_an_import_or_all_of_a_room_runs_nothing_again(lab):
    def reworded():
        for init in [lab / "__init__.py", lab / "nets/__init__.py"]:
            init.write_text('"""Other words."""\n' + init.read_text().split('"""', 2)[2] + "\n__all__ = []\n")

    assert run_again(reworded) == set()


def test_other_code_of_a_room_runs_again_what_passes_through_it(lab):
    assert ONE in run_again(lambda: write(lab / "nets/__init__.py", "\nif True:\n    SLOW = 1\n"))


def test_a_definition_in_a_room_runs_again_only_what_uses_it(lab):
    source = "from lab.nets import deep"
    write(lab / "nets/__init__.py", "\nDEPTH = 3\n\n\ndef deep():\n    return [mlp] * DEPTH\n")
    assert "nets/mlp.py" in reached(source)
    before = execute.digest(reach.reach(used_by(source)))
    init = lab / "nets/__init__.py"
    assert run_again(lambda: init.write_text(init.read_text().replace("DEPTH = 3", "DEPTH = 4"))) == set()
    assert execute.digest(reach.reach(used_by(source))) != before


def test_a_new_data_set_runs_only_the_pages_that_use_it(lab):
    assert run_again(lambda: write(lab / "data/catalogue/martian.py", "def martian():\n    return 1\n")) == set()
    assert "data/catalogue/martian.py" in reached("from lab import data\ndata.martian()")
    assert "data/catalogue/martian.py" in reached("from lab import data\nprint(data.sets())")


def test_a_changed_data_set_runs_only_the_pages_that_call_it(lab):
    assert run_again(lambda: write(lab / "data/catalogue/kang.py", "\n")) == that_use(
        ("data", "kang"), ("data", "sets")
    )
    again = run_again(lambda: write(lab / "data/catalogue/sprites.py", "\n"))
    assert again == that_use(("data", "sprites"), ("data", "sets")) != set()
    assert reached("from lab.data import toys") == reached("from lab import data\ndata.toys.moons(9)")
    assert "data/catalogue/toys.py" in reached("from lab.data import toys")


def test_how_a_room_finds_its_sets_runs_again_all_that_use_one(lab):
    init = lab / "data/catalogue/__init__.py"
    source = "from lab import data\ndata.pbmc()"
    before = execute.digest(reach.reach(used_by(source)))
    init.write_text(init.read_text().replace("def find(", "@functools.cache\ndef find("))
    assert execute.digest(reach.reach(used_by(source))) != before


def test_a_function_beside_the_one_that_names_its_file_is_found(lab):
    write(lab / "data/catalogue/martian.py", "def martian():\n    return 1\n\n\ndef martian_later():\n    return 2\n")
    assert "data/catalogue/martian.py" in reached("from lab import data as d\nd.martian_later()")


@pytest.mark.parametrize(
    "source",
    [
        "import lab",
        "from lab import *",
        "import lab.vae",
        "!python -m lab doctor",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'lab', 'doctor'])",
        "code = 'from lab import data'",
        "import importlib\nimportlib.import_module('lab.' + 'vae')",
    ],
)
def test_where_anything_may_be_reached_everything_is(lab, source):
    assert reached(source) == {str(f.relative_to(lab)) for f in reach.files(lab)}


@pytest.mark.parametrize(
    "source",
    [
        "from lab import vae\nf = getattr(vae, 'loss')",
        "from lab import vae as v\nhelp(v)",
        "from lab.vae import *",
        "from lab import vae",
        "from lab import vae\nvae.terms\n%timeit run(vae)",
        "import lab.vae as v\nv.no_such_name()",
    ],
)
def test_a_room_handed_around_counts_whole(lab, source):
    assert reached(source) >= {str(f.relative_to(lab)) for f in (lab / "vae").rglob("*.py")}
    assert "disentangle.py" not in reached(source)


def test_a_name_in_an_ipython_command_counts(lab):
    assert "metrics/distances.py" in reached("from lab.metrics import mmd\n%timeit mmd(x, y)")
    assert reached("%pip install -q something") == reached("import torch") == set()


def test_a_page_depends_on_the_shipped_files_that_it_opens_and_on_no_others(lab):
    write(lab / "shipped/__init__.py", "from .reading import table\n\n\ndef open(name):\n    return path(name)\n", "w")
    write(lab / "shipped/__init__.py", "\n\ndef path(name):\n    return name\n\n\ndef story(name):\n    return name\n")
    write(lab / "shipped/reading.py", "def table(name):\n    return name\n", "w")
    for name in ("04-sweep.csv", "04-sweep.json", "04-sweep-long.csv", "07-score.safetensors"):
        write(lab / "shipped" / name, name, "w")

    def data_of(source):
        return {f for f in reached(source) if f.startswith("shipped/") and not f.endswith(".py")}

    exactly = {"shipped/04-sweep.csv", "shipped/04-sweep.json"}
    assert data_of("from lab import shipped\nshipped.open('04-sweep')") == exactly
    assert data_of("from lab.shipped import table as t\nt('04-sweep')") == exactly
    every = {f"shipped/{f.name}" for f in (lab / "shipped").iterdir() if f.is_file() and f.suffix != ".py"}
    assert data_of("from lab import shipped\nname = '04'\nshipped.open(name)") == every > exactly
    assert run_again(lambda: write(lab / "shipped/07-score.safetensors", "other")) == set()


def test_package_data_counts_for_what_stands_beside_it(lab):
    write(lab / "metrics/table.csv", "a")
    assert "metrics/table.csv" in reached("from lab.metrics import mmd")
    assert "metrics/table.csv" not in reached("from lab import plot\nplot.style()")


def test_the_lock_is_part_of_every_key(monkeypatch, tmp_path):
    shutil.copytree(ROOT / ".binder", tmp_path / ".binder")
    before = execute.key(ONE)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    write(tmp_path / ".binder/requirements.txt", "another==1.0\n")
    assert execute.key(ONE) != before
