"""Where homework lies, and the environment that marks it."""

import os
import subprocess
from pathlib import Path

from lab.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build/assignments"
PAGES = ROOT / "book/assignments"


def source(name: str) -> Path:
    """The instructor's source of one assignment: in the folder that ASSIGNMENTS_DIR names, else in the repository."""
    folder = Path(os.environ.get("ASSIGNMENTS_DIR", ROOT / "tests/assignments"))
    path = folder / name / f"{name}.md"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("hw*/hw*.md"))) or "none"
        raise Refused(f"there is no assignment {name!r} in {folder}; there is: {known}. ASSIGNMENTS_DIR names another")
    return path


def python() -> str:
    """The Python of the environment with otter-grader; raises `Refused` where nobody has made it."""
    path = ROOT / ".grading/bin/python"
    if not path.exists():
        raise Refused(f"marking needs otter-grader in {path.parents[1]}, which is not there; run `make grading` once")
    return str(path)


def environment() -> dict[str, str]:
    """What a marking process sees: this `lab`, one thread, no data of the machine's own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    kept = {k: v for k, v in os.environ.items() if k not in {"LAB_DATA", "ASSIGNMENTS_DIR"}}
    return kept | threads | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "MPLBACKEND": "agg"}


def otter(*words: str, cwd: Path) -> None:
    """Run otter's own command line; what it says is the reason of a `Refused`."""
    line = [python(), "-m", "otter", *words]
    done = subprocess.run(line, cwd=cwd, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise Refused(
            f"otter {words[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}; mend the source"
        )
