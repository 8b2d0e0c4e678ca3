"""One handwriting: what ruff finds and how it formats, by the settings in pyproject.toml, everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", [("check",), ("format", "--diff")], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "-q", "."]
    said = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert not said.returncode, said.stdout + said.stderr
