"""Homework is marked in an environment of its own; without it these tests are skipped, in CI they fail."""

import importlib
import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from lab.assign import places

NAMES = sorted(p.stem for p in Path(__file__).parent.glob("hw*/hw*.md"))
MODULES = [importlib.import_module(f"lab.assign.{m}") for m in ("build", "gate", "grade")]
ALONE, SMALL = (Path(__file__).with_name(name) for name in ("alone.py", "small.md"))
HOSTILE = """import numpy as np
import torch

np.allclose = torch.allclose = lambda *a, **k: True
torch.testing.assert_close = print"""


@pytest.fixture(scope="session", autouse=True)
def _environment():
    if not (places.ROOT / ".grading/bin/python").exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("run `make grading`")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Folders of the tests' own for what is built: (built, pages)."""
    folder = tmp_path_factory.mktemp("assignments")
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name, path in {"BUILT": folder / "built", "PAGES": folder / "pages"}.items():
                if hasattr(module, name):
                    patch.setattr(module, name, path)
        yield folder / "built", folder / "pages"


def plant(text, folder, patch):
    """Make `text` the source of the only homework there is."""
    source = Path(folder, "sources/hw01/hw01.md")
    source.parent.mkdir(parents=True)
    source.write_text(text)
    patch.setenv("ASSIGNMENTS_DIR", str(folder / "sources"))


def code(path):
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def alone(variants, tests, folder):
    """Marks and points by question, for each list of code cells: one process, otter's tests without its notebooks."""
    (folder / "cells.json").write_text(json.dumps(variants))
    line = [places.python(), str(ALONE), "cells.json", str(tests)]
    done = subprocess.run(line, cwd=folder, env=places.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
