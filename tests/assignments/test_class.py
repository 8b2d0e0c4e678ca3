"""A class of twelve hands in: every row of the table is right, and no submission stops the run."""

import csv
import json
import os
import zipfile

import nbformat
import numpy as np
import pytest

from lab.assign import build, grade
from lab.errors import Refused

from .conftest import MODULES

GRADE = MODULES[2]


@pytest.fixture(scope="module")
def rows(elsewhere, tmp_path_factory):
    build("hw01", elsewhere[1])
    built, folder = elsewhere[0] / "hw01", tmp_path_factory.mktemp("class")
    best = (built / "reference.ipynb").read_text()
    empty = (built / "dist/student/hw01.ipynb").read_text()
    cells = np.zeros((490, 765))
    cells[:, 0] = 1  # a file that is there, so that nobody trains: 6 points less

    def changed(text, source, cell=2, end=False):
        nb = nbformat.reads(text, as_version=4)
        code = [i for i, c in enumerate(nb.cells) if c.cell_type == "code"]
        nb.cells.insert(len(nb.cells) if end else code[cell], nbformat.v4.new_code_cell(source))
        return nbformat.writes(nb)

    def twice(text):
        nb = nbformat.reads(text, as_version=4)
        nb.cells += [next(c for c in nb.cells if c.source.startswith("def log_nb"))]
        return json.dumps(nb)

    def stripped(text):
        nb = json.loads(text)
        nb["metadata"] = {}
        for cell in nb["cells"]:
            cell["metadata"] = {}
            cell.pop("id", None)
        return json.dumps(nb | {"nbformat_minor": 4})

    hostile = "import torch\nnp.allclose = torch.allclose = lambda *a, **k: True\ntorch.testing.assert_close = print"
    files = {
        "01-right": {"a.ipynb": best},
        "02-wrong": {"a.ipynb": best.replace("return ways + stay", "return ways - stay")},
        "03-unfilled": {"a.ipynb": empty},
        "04-crashing": {"a.ipynb": changed(best, "1 / 0", end=True)},
        "05-endless": {"a.ipynb": changed(best, "while True:\n    pass")},
        "06-stripped": {"a.ipynb": stripped(changed(best, "1"))},
        "07-duplicated": {"a.ipynb": twice(best)},
        "08-two": {"a.ipynb": best, "b.ipynb": best},
        "09-hostile": {"a.ipynb": changed(empty, hostile)},
        "10-late-copy": {"a.ipynb": best},
        "11-empty": {},
        "12-other-data": {"a.ipynb": changed(best, "2"), "hw01_cells.npz": np.ones((100, 50))},
        "13-hungry": {"a.ipynb": changed(empty, "kept = [bytearray(10**8) for _ in range(60)]")},
        "14-chatty": {"a.ipynb": changed(empty, "for _ in range(3000):\n    print('x' * 1000)")},
        "15-calling": {
            "a.ipynb": changed(empty, "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=3)")
        },
    }
    for i, (name, parts) in enumerate(files.items()):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as packed:
            for part, text in ({"hw01_cells.npz": cells} | parts if parts else {}).items():
                with packed.open(part, "w") as file:
                    file.write(text.encode()) if isinstance(text, str) else np.savez_compressed(file, cells=text)
        os.utime(folder / f"{name}.zip", (i, i))
    table = folder / "grades.csv"
    grade("hw01", folder, table, seconds=25)
    return {row["submission"][:2]: row for row in csv.DictReader(table.open())}


@pytest.mark.parametrize(
    "who, score, note",
    [
        ("01", 14, ""),
        ("02", 11, ""),
        ("03", 0, ""),
        ("04", 14, "a cell failed: ZeroDivisionError: division by zero"),
        ("05", 0, "stopped: wall time, 25 s"),
        ("06", 14, ""),
        ("07", 14, ""),
        ("08", 0, "2 notebooks where there is one to mark"),
        ("09", 0, ""),
        ("10", 14, "the same code as 01-right.zip"),
        ("11", 0, "0 notebooks where there is one to mark"),
        ("12", 14, ""),
        ("13", 0, "stopped: memory, 2 GB (MemoryError: )"),
        ("14", 0, "stopped: output, 1 MB"),
    ],
)
def test_a_row_of_the_table_is_right(rows, who, score, note):
    assert (float(rows[who]["score"]), rows[who]["note"]) == (score, note)


def test_nobody_reaches_another_machine(rows):
    assert float(rows["15"]["score"]) == 0 and rows["15"]["note"].startswith("a cell failed: OSError")


def test_without_submissions_a_sentence_says_so(tmp_path):
    with pytest.raises(Refused, match="put the submissions there"):
        grade("hw01", tmp_path, tmp_path / "grades.csv")


def test_what_runs_too_long_or_says_too_much_is_stopped_with_all_that_it_started(tmp_path):
    assert GRADE.run(["sh", "-c", "sleep 60 & sleep 60"], tmp_path, 1) == "wall time, 1 s"
    assert GRADE.run(["sh", "-c", "yes"], tmp_path, 20) == "output, 1 MB"
    assert GRADE.run(["true"], tmp_path, 20) == ""
