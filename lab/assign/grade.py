"""Marking: each submission in a process of its own, under limits of time, memory and output, without network."""

import csv
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import zipfile
from pathlib import Path

from lab.errors import Refused

from .places import BUILT, environment, python

SECONDS, MEMORY, OUTPUT = 120, 2 * 1024**3, 1_000_000
FILE = 64 * 1024**2  # no file that a submission writes is larger


def mark(submission: Path, name: str, *, seconds: float = SECONDS) -> dict:
    """The marks of one submission, an .ipynb or a .zip with one and its result files: `score`, `possible`, `marks` by
    question, `note` (what stopped it, or what went wrong), `digest` of the code. Never raises for a bad submission."""
    row = {"score": 0.0, "possible": None, "marks": {}, "note": "", "digest": ""}
    with tempfile.TemporaryDirectory() as folder:
        hand_in, work = Path(folder, "in"), Path(folder, "work")
        hand_in.mkdir(), work.mkdir()
        try:
            notebook = unpack(submission, hand_in)
            row["digest"] = digest(notebook)
            packed = shutil.make_archive(str(Path(folder, "packed")), "zip", hand_in)
        except Exception as error:
            return row | {"note": str(error) if isinstance(error, Refused) else f"unreadable: {type(error).__name__}"}
        zipped, answer = BUILT / name / "autograder.zip", Path(folder, "marks.json")
        if not zipped.exists():
            raise Refused(f"{name} has not been built; run `python -m lab assign build {name}`")
        line = [python(), "-m", "lab.assign.inside", packed, str(zipped), str(answer)]
        stopped = run(line, work, seconds)
        if stopped:
            return row | {"note": f"stopped: {stopped}"}
        return row | json.loads(answer.read_text()) if answer.exists() else row | {"note": "stopped: the process died"}


def unpack(submission: Path, folder: Path) -> Path:
    """Put what was handed in into `folder`, flat; returns its one notebook."""
    if submission.suffix == ".zip":
        with zipfile.ZipFile(submission) as packed:
            if sum(i.file_size for i in packed.infolist()) > FILE:
                raise Refused(f"the files unpack to more than {FILE // 1024**2} MB")
            for item in packed.infolist():
                if not item.is_dir() and not item.filename.startswith("__MACOSX"):
                    (folder / Path(item.filename).name).write_bytes(packed.read(item))
    else:
        shutil.copy(submission, folder)
    import nbformat

    found = list(folder.glob("*.ipynb"))
    if len(found) != 1:
        raise Refused(f"{len(found)} notebooks where there is one to mark")
    nb = nbformat.read(found[0], as_version=4)
    nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nb, found[0])
    return found[0]


def digest(notebook: Path) -> str:
    """The same for two notebooks whose code is the same, whatever the spaces and blank lines."""
    import nbformat

    cells = [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    return hashlib.sha256("".join("".join(cells).split()).encode()).hexdigest()[:12]


def isolated() -> list[str]:
    """How a command is cut off from the network here: a namespace of its own, or nothing where that is forbidden."""
    own = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        return own if subprocess.run([*own, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


def run(line: list[str], cwd: Path, seconds: float) -> str:
    """Run a command under the limits; returns the limit that stopped it, or an empty string."""

    def limits():
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))

    env = environment() | {"LAB_ASSIGN_GUARD": "" if (cut := isolated()) else "1", "HOME": str(cwd)}
    process = subprocess.Popen(
        [*cut, *line], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limits
    )
    reason = []

    def stop(why):
        reason.append(why)
        kill(process)

    timer = threading.Timer(seconds, stop, [f"wall time, {seconds:g} s"])
    timer.start()
    said = 0
    while chunk := process.stdout.read1(65536):
        said += len(chunk)
        if said > OUTPUT and not reason:
            stop("output, 1 MB")
    status = process.wait()
    timer.cancel()
    kill(process)
    return reason[0] if reason else {3: "output, 1 MB", 4: "memory, 2 GB"}.get(status, "")


def kill(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def grade(name: str, folder: Path, out: Path, *, seconds: float = SECONDS) -> list[dict]:
    """Mark every .zip and .ipynb of a folder, oldest first, into the table `out`; a later one with an earlier one's
    code is marked too, and its note says whose. Returns the rows."""
    if not folder.is_dir():
        raise Refused(f"there is no folder {folder}; name the one with the submissions")
    files = [p for p in folder.iterdir() if p.suffix in {".zip", ".ipynb"}]
    if not files:
        raise Refused(f"{folder} holds no .zip or .ipynb; put the submissions there, one file a student")
    rows, first = [], {}
    for path in sorted(files, key=lambda p: (p.stat().st_mtime, p.name)):
        row = {"submission": path.name} | mark(path, name, seconds=seconds)
        if row["digest"] and (earlier := first.setdefault(row["digest"], path.name)) != path.name:
            row["note"] = "; ".join(filter(None, [row["note"], f"the same code as {earlier}"]))
        rows.append(row)
    questions = sorted({q for row in rows for q in row["marks"]})
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["submission", "score", "possible", *questions, "note"])
        for row in rows:
            marks = [row["marks"].get(q, 0) for q in questions]
            table.writerow([row["submission"], row["score"], row["possible"] or "", *marks, row["note"]])
    return rows
