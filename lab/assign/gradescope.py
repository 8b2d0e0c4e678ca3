"""Gradescope: what the autograder's zip holds for it, and what runs there for each submission.

It unpacks the zip into /autograder/source, runs `setup.sh` once, then for each submission `run_autograder`.
"""

import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from lab.errors import Refused

from .grade import found, unpack
from .places import ROOT

SETUP = """#!/usr/bin/env bash
# Once, as root, when the image is made: the book's package, which lies beside this file, and otter-grader, at the
# versions of the book's lock.
set -euo pipefail
cd "${AUTOGRADER:-/autograder}/source"
python=""
for one in python3.11 python3.12 python3.13 python3; do
    if "$one" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$one; break; fi
done
if [ -z "$python" ]; then                      # Ubuntu 22.04 comes with 3.10
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y python3.11 python3.11-venv
    python=python3.11
fi
"$python" -m venv ../env
pip() { ../env/bin/python -m pip install --no-cache-dir -q "$@"; }
pip --no-deps --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "$(grep '^torch==' constraints.txt)" ||
    echo "PyTorch's index was not reached: torch comes from PyPI, which is larger"
pip -c constraints.txt ./package otter-grader ipykernel
"""
RUN = """#!/usr/bin/env bash
# For each submission: notebook and result file lie in submission/, the marks go to results/results.json.
cd "${AUTOGRADER:-/autograder}"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
export ACCELERATE_USE_CPU=true MPLBACKEND=agg
exec env/bin/python -P -c 'from lab.assign import gradescope; gradescope.main()'
"""


def pack(autograder: Path, results: list[str]) -> None:
    """Replace otter's set-up in the zip, which installs no `lab` and conda, by the book's own."""
    with zipfile.ZipFile(autograder) as packed:
        kept = {n: packed.read(n) for n in packed.namelist() if n.startswith("tests/") or n == "otter_config.json"}
    with zipfile.ZipFile(autograder, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in kept.items():
            packed.writestr(name, content)
        packed.writestr("setup.sh", SETUP)
        packed.writestr("run_autograder", RUN)
        packed.writestr("results.json", json.dumps(results))
        packed.writestr("constraints.txt", constraints())
        for path in [ROOT / "pyproject.toml", ROOT / "README.md", *sorted((ROOT / "lab").rglob("*"))]:
            if path.is_file() and "__pycache__" not in path.parts:
                packed.write(path, Path("package", path.relative_to(ROOT)))


def constraints() -> str:
    """The lock's versions, and those of what marks, which come before where both name a package."""
    lock, ours = (ROOT.joinpath(f).read_text(encoding="utf-8") for f in (".binder/requirements.txt", ".ci/grading.txt"))
    pins = {}
    for line in [*lock.splitlines(), *ours.splitlines()]:
        if pin := re.match(r"([\w.-]+)==\S+", line):
            pins[pin[1].lower().replace("_", "-")] = pin[0]
    return "\n".join(pins.values()) + "\n"


def main() -> None:
    """Mark what lies in submission/ as `grade` does; the limits of time and memory are Gradescope's."""
    root = Path.cwd()
    answer = root / "results/results.json"
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpack(root / "submission", Path(folder))
            asked = json.loads((root / "source/results.json").read_text())
            missing = [file for file in asked if not found(file, Path(folder))]
            shutil.rmtree(root / "submission")
            shutil.copytree(folder, root / "submission")
        from otter.run.run_autograder import main as run

        run(str(root), logo=False)
        said = json.loads(answer.read_text())
        said["output"] = " ".join([said.get("output", ""), *(f"No {f}: it scores nothing." for f in missing)]).strip()
    except Exception as error:
        reason = str(error) if isinstance(error, Refused) else f"Marking stopped: {type(error).__name__}: {error}"
        said = {"score": 0, "output": reason}
    answer.write_text(json.dumps(said, indent=1), encoding="utf-8")
