"""Shipped runs: small, told whole, opened from an installed wheel, and known to be stale when code moves."""

import contextlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import ship
import torch
from safetensors.torch import load_file, save_file

from lab import shipped
from lab.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lab/shipped"
DATA = [path for path in FOLDER.iterdir() if path.suffix in (".csv", ".safetensors")]
FOREIGN = [name for name in shipped.names() if shipped.story(name).get("foreign")]  # once, by packages outside the lock
OURS = [name for name in shipped.names() if name not in FOREIGN]


@pytest.mark.parametrize("name", OURS)
def test_what_is_shipped_says_how_it_was_made_and_by_whom_it_can_be_made_again(name):
    story = shipped.story(name)
    of_page = {"page", "call"} <= set(story)
    assert of_page != story.get("command", "").startswith("python -m lab ")
    assert story["seconds"] > 0 and story["processor"]
    assert set(story["spread"]) <= set(story["keep"])
    if not story.get("weights"):
        moved = next(
            story["over"][k] for k in ("seed", "split", "screen", "method", "fold", "target") if k in story["over"]
        )
        assert len(moved) > 1, "one seed, or one set of cells, cannot say how much a number moves"
    assert len(story["digest"]) == 64 and story["files"]
    assert of_page or "lab/command/__init__.py" in story["files"]
    assert platform.node() not in (text := json.dumps(story)) and not re.search(r"[\"\s]/\w", text), (
        "no machine, no path"
    )


@pytest.mark.parametrize("name", FOREIGN)
def test_what_other_packages_made_says_which_when_and_by_which_script(name):
    """Nothing here can run it again: so a script that changes takes its rows with it."""
    story, table = shipped.story(name), shipped.open(name)
    assert story["seconds"] > 0 and story["processor"] and re.fullmatch(r"\d{4}-\d\d-\d\d", story["date"])
    assert platform.node() not in (text := json.dumps(story)) and not re.search(r"[\"\s]/\w", text)
    assert ship.digest(story) == story["digest"] and name not in ship.stories()
    for package, asked in story["packages"].items():
        pins = (ROOT / asked["pins"]).read_text().split()
        assert {f"{package}=={asked['version']}", f"torch=={asked['torch']}"} <= set(pins)
    assert set(table["package"]) == set(story["packages"])
    assert not table.isna().any().any() and not table.duplicated(story["over"]).any()
    assert list(table.columns) == [*story["over"], *story["keep"]]


@pytest.mark.parametrize("name", [path.stem for path in DATA if path.suffix == ".csv" and path.stem in OURS])
def test_a_table_has_a_row_for_each_combination_and_nothing_missing(name):
    table, story = shipped.open(name), shipped.story(name)
    assert list(table.columns) == [*story["over"], *story["keep"]]
    assert list(table.columns[table.isna().any()]) == story.get("blank", [])
    assert [tuple(row) for row in table[list(story["over"])].to_numpy()] == [
        tuple(blanks.values()) for blanks, _ in ship.runs(story)
    ]


def test_every_file_is_small_and_has_its_story():
    assert sum(path.stat().st_size for path in DATA) <= 15e6
    for path in DATA:
        of_images = shipped.story(path.stem).get("images")
        assert path.stat().st_size <= (4e6 if of_images else 1e6), path.name
    assert sorted(path.stem for path in DATA) == shipped.names()


def test_stale_runs_are_named_in_a_warning():
    """`make shipped` mends it; the weekly job fails on it."""
    if stale := ship.stale():
        warnings.warn(f"shipped runs of other code than today's: {', '.join(stale)}; run `make shipped`", stacklevel=1)


def test_a_name_under_which_nothing_is_shipped_is_refused_with_those_that_are():
    with pytest.raises(Refused, match="there is: .*04-bulk-beta"):
        shipped.open("04-bulk")


def test_weights_open_as_tensors_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped.resources, "files", lambda _: tmp_path)
    save_file({"w": torch.arange(3.0)}, tmp_path / "07-score.safetensors")
    assert torch.equal(shipped.open("07-score")["w"], torch.arange(3.0))


def test_an_installed_wheel_opens_each(tmp_path):
    """As on Colab, where a reader has one notebook and the package."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lab", source / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    program = "from lab import shipped; print(shipped.__file__, *(len(shipped.open(n)) for n in shipped.names()))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "site", check=True, capture_output=True, text=True
    )
    where, *rows = run.stdout.split()
    assert where.startswith(str(tmp_path / "site")) and list(map(int, rows)) == [
        len(shipped.open(name)) for name in shipped.names()
    ]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one file and one shipped table made by it."""
    (tmp_path / "lab/shipped").mkdir(parents=True)
    (tmp_path / "lab/a.py").write_text('"""What it is."""\n\n\ndef f(x):\n    return x + 1\n')
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    monkeypatch.setattr(ship, "SHIPPED", tmp_path / "lab/shipped")
    story = {
        "command": "python -m lab train vae --beta {beta} --seed {seed}",
        "over": {"beta": [1, 2], "seed": [0, 1]},
        "keep": {"ELBO": "held-out ELBO"},
        "spread": {"ELBO": 0.5},
        "files": ["lab/a.py"],
    }
    story["digest"] = ship.digest(story)
    (tmp_path / "lab/shipped/t.json").write_text(json.dumps(story))
    return tmp_path


@pytest.mark.parametrize(
    "text, is_stale",
    [
        ('"""Other words."""\n\n\ndef f(x):\n    return x + 1  # why\n', False),
        ('"""What it is."""\n\n\ndef f(x):\n    return x + 2\n', True),
        (None, True),
    ],
)
def test_other_code_makes_a_run_stale_and_other_words_do_not(text, is_stale, repository):
    file = repository / "lab/a.py"
    file.unlink() if text is None else file.write_text(text)
    assert ship.stale() == ["t"] * is_stale


def test_verifying_fails_beyond_the_spread_and_writes_nothing_and_a_run_writes_table_and_story(repository, monkeypatch):
    by = {"0": -10.0, "1": -11.0}
    monkeypatch.setattr(ship, "row", lambda words, weights, real: ({"held-out ELBO": by[words[-1]]}, {"lab/a.py"}, 2.0))
    assert not ship.main(["t"])
    shown = pd.read_csv(repository / "lab/shipped/t.csv")
    assert shown.to_numpy().tolist() == [[1, 0, -10], [1, 1, -11], [2, 0, -10], [2, 1, -11]]
    assert ship.stories()["t"]["seconds"] == 8 and not ship.main(["--verify"])
    by["1"] = -11.6
    assert ship.main(["--verify"]) == 1 and pd.read_csv(repository / "lab/shipped/t.csv").equals(shown)


def test_weights_are_copied_out_of_their_run_and_its_numbers_stand_in_the_story(repository, monkeypatch):
    path = repository / "lab/shipped/t.json"
    story = json.loads(path.read_text()) | {"weights": True, "over": {"beta": [1], "seed": [0]}}
    path.write_text(json.dumps({k: v for k, v in story.items() if k not in ("files", "digest")}))
    assert ship.stale() == ["t"], "one that has never run"
    value = {"held-out ELBO": -10.0}

    def run(line, **_):
        out = Path(line[line.index("--out") + 1])
        out.mkdir()
        (out / "run.json").write_text(json.dumps({"results": value}))
        save_file({"w": torch.arange(3.0)}, out / "model.safetensors")
        return subprocess.CompletedProcess(line, 0, "", "")

    monkeypatch.setattr(ship.subprocess, "run", run)
    monkeypatch.setattr(ship, "counted", lambda files, words: {"lab/a.py"})
    assert not ship.main([]) and ship.stale() == [] and not ship.main(["--verify"])
    assert torch.equal(load_file(path.with_suffix(".safetensors"))["w"], torch.arange(3.0))
    assert ship.stories()["t"]["rows"] == [{"beta": 1, "seed": 0, "ELBO": -10.0}]
    value["held-out ELBO"] = -11.0
    assert ship.main(["--verify"]) == 1


def test_a_story_of_real_cells_sees_their_folder_and_no_other_does_and_without_it_is_left_alone(
    repository, monkeypatch
):
    seen = []

    def run(line, env, **_):
        seen.append(env.get("LAB_DATA"))
        out = Path(line[line.index("--out") + 1])
        out.mkdir()
        (out / "run.json").write_text(json.dumps({"results": {"held-out ELBO": -10.0}}))
        return subprocess.CompletedProcess(line, 0, "", "")

    monkeypatch.setattr(ship.subprocess, "run", run)
    monkeypatch.setattr(ship, "counted", lambda files, words: {"lab/a.py"})
    monkeypatch.setenv("LAB_DATA", "there")
    ship.main(["t"])
    assert set(seen) == {None}
    path = repository / "lab/shipped/t.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"real": True}))
    seen.clear()
    ship.main(["t"])
    assert set(seen) == {"there"} and not ship.main(["--verify"])
    monkeypatch.delenv("LAB_DATA")
    seen.clear()
    with pytest.raises(SystemExit, match="LAB_DATA"):
        ship.main(["t"])
    assert not ship.main(["--verify"]) and not seen


PAGE = """---
kernelspec:
  name: python3
---

```{code-cell} ipython3
:tags: [remove-cell]
if False:
    %pip install it
start = 1
```

```{code-cell} ipython3
raise RuntimeError("a cell that the table does not need")
```

```{code-cell} ipython3
:tags: [shipped]
import numpy as np
from lab.data import splits
from lab import vae

cut = splits.split

def f(seed):
    return {"sum": np.float32(start + seed)}
```
"""


def test_a_table_can_be_a_call_of_the_pages_own_function_and_other_cells_do_not_make_it_stale(repository, monkeypatch):
    pytest.importorskip("jupyter_cache")
    import contents
    import reach  # noqa: F401, its root is the real one

    import lab.data.splits  # noqa: F401, before subprocess is not what it was

    page = repository / "book/a.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    monkeypatch.setattr(contents, "ROOT", repository)
    printed = io.StringIO()

    def here(line, **_):
        with contextlib.redirect_stdout(printed):
            ship.main(line[2:])
        return subprocess.CompletedProcess(line, 0, "/elsewhere/lab/vae.py\nno file", "")

    monkeypatch.setattr(ship.subprocess, "run", here)
    story = {
        "page": "a",
        "call": "f(seed={seed})",
        "over": {"seed": [0, 1]},
        "keep": {"s": "sum"},
        "spread": {"s": 0.5},
    }
    (repository / "lab/shipped/t.json").write_text(json.dumps(story))
    assert ship.stale() == ["t"] and not ship.main([]) and ship.stale() == []
    assert pd.read_csv(repository / "lab/shipped/t.csv").to_numpy().tolist() == [[0, 1], [1, 2]]
    assert str(ROOT / "lab/data/splits.py") in printed.getvalue() and "lab/vae" not in printed.getvalue()
    page.write_text(PAGE.replace("does not need", "still does not need").replace("def f(seed):", "def f(seed):  # why"))
    assert ship.stale() == []
    page.write_text(PAGE.replace("start + seed", "start - seed"))
    assert ship.stale() == ["t"] and ship.main(["--verify"]) == 1


def test_a_page_can_train_the_weights_and_its_own_functions_say_how_good_they_are(tmp_path, monkeypatch):
    pytest.importorskip("jupyter_cache")
    program = "import torch\ndef fit(seed):\n    return torch.nn.Linear(2, 1), seed\n"
    program += "def row(net, seed):\n    return {'weight': net.weight.sum().item(), 'seed': seed}"
    monkeypatch.setattr(ship, "cells", lambda page, tag="shipped", expression=None: program * (tag == "shipped"))
    ship.call("a", "row(*(made := fit(seed=3))), made[0]", tmp_path / "run")
    weights, told = load_file(tmp_path / "run/model.safetensors"), json.loads((tmp_path / "run/run.json").read_text())
    assert told["results"] == {"weight": pytest.approx(weights["weight"].sum().item()), "seed": 3}


def test_of_the_sets_only_the_commands_own_makes_a_run_stale():
    """So a new set does not, though the command lists the cards of all."""
    pytest.importorskip("jupyter_cache")
    catalogue = ROOT / "lab/data/catalogue"
    loaded = [*map(str, catalogue.glob("*.py")), str(ROOT / "lab/vae/bounds.py"), "/elsewhere/lab/vae/bounds.py"]
    own = {"lab/data/catalogue/__init__.py", "lab/data/catalogue/pbmc3k.py", "lab/vae/bounds.py"}
    assert ship.counted(loaded, "train vae --data pbmc68k --seed 0".split()) == own


def test_what_else_a_room_passes_on_makes_no_table_stale_and_another_law_does(tmp_path, monkeypatch):
    """A new name in `lab/metrics/__init__.py` is in no way of a page that asks for `paired`."""
    pytest.importorskip("jupyter_cache")
    import reach
    from contents import ROOT as REAL

    shutil.copytree(REAL / "lab", tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(reach, "LAB", tmp_path / "lab")
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    monkeypatch.setattr(
        ship, "cells", lambda page, **_: "from lab import metrics\nmetrics.paired([1.0, 2.0], [0.0, 1.0])"
    )
    story, room = {"page": "a", "call": "f()", "over": {}}, tmp_path / "lab/metrics/__init__.py"
    before = ship.digest(story)
    room.write_text(room.read_text() + "from .distances import mmd as memory\n")
    assert ship.digest(story) == before
    law = tmp_path / "lab/metrics/paired.py"
    law.write_text(law.read_text().replace("ours - theirs", "theirs - ours"))
    assert ship.digest(story) != before


def test_of_the_tagged_cells_only_those_that_the_call_needs_are_run_and_make_a_table_stale():
    pytest.importorskip("jupyter_cache")
    from uses import needed

    cells = ["import numpy as np", "a = np.ones(3)", "a.sort()", "def f(x):\n    return g(x) + a", "g = abs", "b = 2"]
    cells += ["def other(x):\n    return f(x) + b"]
    assert needed(cells, "f(1)") == cells[:5]
    assert needed(cells, "other(1)") == cells
    assert needed(cells, "g(1)") == ["g = abs"]
