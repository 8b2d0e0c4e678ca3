"""A class of seventeen hands in: every row of the table is right, every answer gathered, and none stops the run."""

import csv
import json
import os
import re
import zipfile

import nbformat
import numpy as np
import pytest
from markdown_it import MarkdownIt

from lab.assign import build, grade, limits, written
from lab.errors import Refused

from .conftest import HOSTILE, MODULES, SMALL, plant

GRADE = MODULES[2]
CALLING = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=3)"
ANSWER = "From the prior.\n\nThe other choice is *nearer*: 0.6, not 0.9."
BREAKING = "mine\n```\n# No heading\n`````\r~~~~\r<script>alert(1)</script>\u2028\x1b[31m\u202ereversed"
SHOWN = "\ufffd[31m\ufffdreversed"


@pytest.fixture(scope="module")
def built(elsewhere, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        plant(SMALL.read_text(), tmp_path_factory.mktemp("small"), patch)
        build("hw01", elsewhere[1])
    return elsewhere[0] / "hw01"


@pytest.fixture(scope="module")
def rows(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    best = (built / "reference.ipynb").read_text()
    empty = (built / "dist/student/hw01.ipynb").read_text()
    cells = np.ones((1, 765))  # a file that is there, and scores nothing: 6 points less

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

    def answered(text, answer):
        nb = nbformat.reads(text, as_version=4)
        at = next(i for i, c in enumerate(nb.cells) if c.source.startswith("_Type your answer here"))
        nb.cells[at].source = answer
        return nbformat.writes(nb)

    files = {
        "01-right": {"a.ipynb": answered(best, ANSWER), "hw01_cells.npz": np.ones((490, 765))},
        "02-wrong": {
            "a.ipynb": best.replace("return ways + stay", "return ways - stay"),
            "hw01_cells.npz": np.ones((490, 765)),
        },
        "03-unfilled": {"a.ipynb": answered(empty, BREAKING)},
        "04-crashing": {"a.ipynb": changed(best, "1 / 0", end=True)},
        "05-endless": {"a.ipynb": changed(best, "while True:\n    pass")},
        "06-stripped": {"a.ipynb": stripped(changed(best, "1"))},
        "07-duplicated": {"a.ipynb": twice(best)},
        "08-two": {"a.ipynb": best, "b.ipynb": best},
        "09-hostile": {"a.ipynb": changed(empty, HOSTILE)},
        "10-late-copy": {"a.ipynb": best, ".ipynb_checkpoints/a-checkpoint.ipynb": empty},
        "11-empty": {},
        "12-other-data": {"a.ipynb": changed(best, "2"), "hw01_cells.npz": "no file of numbers"},
        "13-hungry": {"a.ipynb": changed(empty, "kept = [bytearray(10**8) for _ in range(60)]")},
        "14-chatty": {"a.ipynb": changed(empty, "for _ in range(3000):\n    print('x' * 1000)")},
        "15-calling": {"a.ipynb": changed(empty, CALLING)},
        "16-no-file": {"a.ipynb": best},
    }
    for i, (name, parts) in enumerate(files.items()):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as packed:
            file = {} if name == "16-no-file" else {"hw01_cells.npz": cells}
            for part, text in (file | parts if parts else {}).items():
                with packed.open(part, "w") as file:
                    file.write(text.encode()) if isinstance(text, str) else np.savez_compressed(file, cells=text)
        os.utime(folder / f"{name}.zip", (i, i))
    (folder / "17-`=folder").mkdir()
    (folder / "17-`=folder/hw01 (2).ipynb").write_text(answered(empty, ANSWER).replace("## Question 3", "## My title"))
    np.savez_compressed(folder / "17-`=folder/hw01_cells (1).npz", cells=cells)
    table = folder / "grades.csv"
    grade("hw01", folder, table, seconds=25)
    return {row["submission"][:2]: row for row in csv.DictReader(table.open())} | {
        "written": table.with_suffix(".written.md").read_text()
    }


@pytest.mark.parametrize(
    "who, score, note",
    [
        ("01", 9, ""),
        ("02", 6, ""),
        ("03", 0, ""),
        ("04", 3, "a cell failed: ZeroDivisionError: division by zero"),
        ("05", 0, "stopped: processor time, 25 s"),
        ("06", 3, ""),
        ("07", 3, ""),
        ("08", 0, "2 notebooks where there is one to mark"),
        ("09", 0, ""),
        ("10", 3, "the same code as 01-right.zip"),
        ("11", 0, "0 notebooks where there is one to mark"),
        ("12", 3, ""),
        ("13", 0, "stopped: memory, 2 GB (MemoryError: )"),
        ("14", 0, "stopped: output, 1 MB"),
        ("16", 3, "no hw01_cells.npz; the same code as 01-right.zip"),
        ("17", 0, ""),
    ],
)
def test_a_row_of_the_table_is_right(rows, who, score, note):
    assert (float(rows[who]["score"]), rows[who]["note"]) == (score, note)


def test_nobody_reaches_another_machine(rows):
    assert float(rows["15"]["score"]) == 0 and rows["15"]["note"].startswith("a cell failed: OSError")


def test_every_answer_stands_under_the_rubric_as_it_was_typed_and_breaks_out_of_nothing(rows):
    tokens = MarkdownIt().parse(rows["written"])
    heads = [t.content for t, u in zip(tokens[1:], tokens) if u.type == "heading_open" and u.tag == "h3"]
    said = {re.search(r"\d\d", head)[0]: [] for head in heads}
    assert "Rubric, one point a line:" in rows["written"] and len(heads) == len(said) == len(rows) - 1 == 17
    for token in tokens:
        if token.type == "inline" and token.content in heads:
            mine = said[re.search(r"\d\d", token.content)[0]]
        elif token.type == "fence":
            mine.append(token.content.rstrip("\n"))
        assert token.type != "html_block"
    assert (
        said.pop("01") == [ANSWER] and said.pop("17")[0].endswith(f"\n\n{ANSWER}") and rows["01"]["q3 (by hand)"] == ""
    )
    (broken,) = said.pop("03")
    assert broken.splitlines() == ["mine", "```", "# No heading", "`````", "~~~~", "<script>alert(1)</script>", SHOWN]
    assert not any(said.values())


def test_a_name_is_no_formula_and_a_long_answer_is_cut():
    assert GRADE.cell("=1+1") == "'=1+1" and GRADE.cell("a=1") == "a=1"
    assert "5000 characters more" in written._fenced("x" * 10_000)


def test_without_submissions_a_sentence_says_so(tmp_path):
    with pytest.raises(Refused, match="put the submissions there"):
        grade("hw01", tmp_path, tmp_path / "grades.csv")


def test_what_runs_too_long_or_says_too_much_is_stopped_with_all_that_it_started(tmp_path):
    assert limits.run(["sh", "-c", "sleep 60 & sleep 60"], tmp_path, 0.1) == "wall time, 1 s"
    assert limits.run(["sh", "-c", "(while :; do :; done) & wait"], tmp_path, 1) == "processor time, 1 s"
    assert limits.run(["sh", "-c", "yes"], tmp_path, 20) == "output, 1 MB"
    assert limits.run(["true"], tmp_path, 20) == ""


def test_where_no_namespace_is_to_be_had_the_kernel_itself_refuses_to_call(built, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "isolated", list)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CALLING)])
    nbformat.write(nb, tmp_path / "a.ipynb")
    assert "there is no network while homework is marked" in GRADE.mark(tmp_path / "a.ipynb", "hw01")["note"]
