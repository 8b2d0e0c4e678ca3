"""Marking: each submission in a process of its own, into a table; what a person marks, into a file beside it."""

import csv
import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from lab.errors import Refused

from .limits import FILE, SECONDS, run
from .places import BUILT, PAGES, python
from .written import gathered, questions, words

NOTEBOOK = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def mark(submission: Path, name: str, *, seconds: float = SECONDS, train: bool = False) -> dict:
    """The marks of one submission, an .ipynb, or a .zip or folder with one and its result file: `score`, `possible`,
    `marks` by question, `note` (what stopped it, or what went wrong), `digest` of the code, what was `written`.
    Without `train` a result file that is missing is there, empty: nothing is trained. A bad submission never raises."""
    row = {"score": 0.0, "possible": None, "marks": {}, "note": "", "digest": "", "written": {}}
    reference, zipped = built(name) / "reference.ipynb", built(name) / "autograder.zip"
    given = [reference, *PAGES.glob(f"{name}.ipynb")]
    with tempfile.TemporaryDirectory() as folder:
        hand_in, work, answer = Path(folder, "in"), Path(folder, "work"), Path(folder, "marks.json")
        hand_in.mkdir(), work.mkdir()
        try:
            notebook = unpack(submission, hand_in)
            row |= {"digest": digest(notebook), "written": words(notebook, given)}
            missing = [] if train else [file for file in result_files(reference) if not found(file, hand_in)]
            packed = shutil.make_archive(str(Path(folder, "packed")), "zip", hand_in)
        except Exception as error:
            return row | {"note": str(error) if isinstance(error, Refused) else f"unreadable: {type(error).__name__}"}
        line = [python(), "-m", "lab.assign.inside", packed, str(zipped), str(answer)]
        if stopped := run(line, work, seconds):
            row["note"] = f"stopped: {stopped}"
        elif answer.exists():
            row |= json.loads(answer.read_text())
        else:
            row["note"] = "stopped: the process died"
    return row | {"note": "; ".join(filter(None, [row["note"], *(f"no {file}" for file in missing)]))}


def built(name: str) -> Path:
    """The folder of what was built; raises `Refused` where nothing was."""
    if not (BUILT / name / "autograder.zip").exists():
        raise Refused(f"{name} has not been built; run `python -m lab assign build {name}`")
    return BUILT / name


def unpack(submission: Path, folder: Path) -> Path:
    """Put what was handed in into `folder`, flat, without hidden files; returns its one notebook."""
    import nbformat

    for part in sorted(submission.rglob("*")) if submission.is_dir() else [submission]:
        if part.suffix == ".zip":
            with zipfile.ZipFile(part) as packed:
                if sum(i.file_size for i in packed.infolist()) > FILE:
                    raise Refused(f"the files unpack to more than {FILE // 1024**2} MB")
                for item in packed.infolist():
                    if not item.is_dir() and not hidden(Path(item.filename)):
                        (folder / Path(item.filename).name).write_bytes(packed.read(item))
        elif part.is_file() and not hidden(part.relative_to(submission.parent)):
            shutil.copy(part, folder)
    notebooks = list(folder.glob("*.ipynb"))
    if len(notebooks) != 1:
        raise Refused(f"{len(notebooks)} notebooks where there is one to mark")
    nb = nbformat.read(notebooks[0], as_version=4)
    nb.metadata = NOTEBOOK
    nbformat.write(nb, notebooks[0])
    return notebooks[0]


def hidden(path: Path) -> bool:
    """Whether Jupyter, macOS or an editor put it there: checkpoints of a notebook are no second notebook."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def result_files(reference: Path) -> list[str]:
    """The result files of an assignment: what its cells make where it is not there."""
    return re.findall(r'if not Path\(\\"([^"\\]+)\\"\)\.exists\(\)', reference.read_text(encoding="utf-8"))


def found(file: str, folder: Path) -> bool:
    """Whether a result file was handed in; the only one of its kind counts under any name, such as `cells (1).npz`, and
    where there is none an empty one is put in its place, so that the notebook makes none."""
    path = folder / file
    alike = list(folder.glob(f"*{path.suffix}"))
    if not path.exists() and len(alike) == 1:
        alike[0].rename(path)
    there = path.exists()
    path.touch()
    return there


def digest(notebook: Path) -> str:
    """The same for two notebooks whose code is the same, whatever the spaces and blank lines."""
    import nbformat

    cells = [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    return hashlib.sha256("".join("".join(cells).split()).encode()).hexdigest()[:12]


def grade(name: str, folder: Path, out: Path, *, seconds: float = SECONDS) -> list[dict]:
    """Mark every .zip, .ipynb and sub-folder of a folder, oldest first, into the table `out`; a later one with an
    earlier one's code is marked too, and its note says whose. Written answers go beside it, under their rubrics, into
    a file of its name that ends in `.written.md`. Returns the rows."""
    if not folder.is_dir():
        raise Refused(f"there is no folder {folder}; name the one with the submissions")
    files = [p for p in folder.iterdir() if not hidden(Path(p.name)) and (p.is_dir() or p.suffix in {".zip", ".ipynb"})]
    if not files:
        raise Refused(f"{folder} holds no .zip or .ipynb; put the submissions there, one file a student")
    rows, first, blank = [], {}, digest(built(name) / "dist/student" / f"{name}.ipynb")
    for path in sorted(files, key=lambda p: (p.stat().st_mtime, p.name)):
        row = {"submission": path.name} | mark(path, name, seconds=seconds)
        if row["digest"] not in ("", blank) and (earlier := first.setdefault(row["digest"], path.name)) != path.name:
            row["note"] = "; ".join(filter(None, [row["note"], f"the same code as {earlier}"]))
        rows.append(row)
    asked = questions(built(name) / "reference.ipynb")
    by_test, by_hand = sorted({q for row in rows for q in row["marks"]}), [one.column for one in asked]
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["submission", "score", "possible", *by_test, *by_hand, "note"])
        for row in rows:
            marks = [row["marks"].get(q, 0) for q in by_test] + [""] * len(by_hand)
            table.writerow([cell(row["submission"]), row["score"], row["possible"] or "", *marks, cell(row["note"])])
    out.with_suffix(".written.md").write_text(gathered(asked, rows), encoding="utf-8")
    return rows


def cell(text: str) -> str:
    """A text that a spreadsheet takes for no formula, whatever a student named a file or an error."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
