"""LAB_JITTER stands for another processor: kernels of nbval begin with weights moved in the seventh digit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

BOOK = Path(__file__).resolve().parents[2] / "book"
CELL = """import torch as t
p = t.nn.Parameter(t.ones(1000, dtype=t.float64))
before = t.get_rng_state()
t.optim.AdamW([p])
moved = (p - 1).std().item()
print(f"{moved:.0e}", t.equal(before, t.get_rng_state()), sorted(set(dir()) & {"os", "torch", "_jitter"}))"""


@pytest.fixture
def told(tmp_path):
    """told(LAB_JITTER, printed): what nbval says of a notebook with that stored output, beside the book's conftest."""
    (tmp_path / "_ext").mkdir()
    for name in ("conftest.py", "_ext/jitter.py"):
        shutil.copy(BOOK / name, tmp_path / name)

    def run(jitter, printed):
        cell = new_code_cell(CELL, execution_count=1, outputs=[new_output("stream", text=f"{printed}\n")])
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=[cell], metadata=kernel), tmp_path / "page.ipynb")
        line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", "."]
        env = {k: v for k, v in os.environ.items() if k not in ("LAB_JITTER", "IPYTHONDIR", "PYTEST_ADDOPTS")}
        env |= {"LAB_JITTER": jitter} if jitter else {}
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True).stdout

    return run


@pytest.mark.parametrize("jitter, moved", [("1", "1e-06"), ("bf527a3", "1e-06"), (None, "0e+00")])
def test_weights_move_by_a_millionth_as_the_optimizer_receives_them_and_nothing_else_does(told, jitter, moved):
    assert "1 passed" in told(jitter, f"{moved} True []")


def test_an_output_that_is_another_processors_fails(told):
    assert "1 failed" in told("1", "0e+00 True []")
