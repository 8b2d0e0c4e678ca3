"""The gate, over every assignment, and the faults that it has to notice."""

import importlib
import re
import zipfile

import pytest

from lab.assign import build, gate, places
from lab.errors import Refused

from .conftest import HOSTILE, MODULES, NAMES, SMALL, alone, code, plant

BUILD, GATE, GRADE = MODULES


@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaks_the_reference_scores_all_and_each_question_exactly_itself(name, tmp_path):
    marks = gate(name)
    built = places.BUILT / name
    best, empty = code(built / "reference.ipynb"), code(built / "dist/student" / f"{name}.ipynb")
    differing = [i for i, (a, b) in enumerate(zip(best, empty, strict=True)) if a != b]
    filled = [[best[j] if j == i else cell for j, cell in enumerate(empty)] for i in differing]
    none, *each, fooled = alone([empty, *filled, [HOSTILE, *empty]], built / "autograder.zip", tmp_path)
    possible = {question: points for question, (_, points) in none.items()}
    assert marks == possible and not any(score for score, _ in [*none.values(), *fooled.values()])
    for question, got in zip(possible, each, strict=True):
        assert {q: score for q, (score, _) in got.items()} == dict.fromkeys(possible, 0) | {
            question: possible[question]
        }
    checks = importlib.import_module(f"lab.checks.{name}")
    assert {q: getattr(checks, q).points for q in possible} == possible, "the public checks say the same points"


@pytest.mark.parametrize("name", NAMES)
def test_half_or_more_is_closed_forms_a_fifth_or_more_a_file_and_some_by_hand(name):
    points = dict(re.findall(r"^name: (q\d)\n(?:manual: true\n)?points: (\d+)", places.source(name).read_text(), re.M))
    points = {q: int(n) for q, n in points.items()}
    hand, file = points.pop("q7"), points.pop("q6")
    total = hand + file + sum(points.values())
    assert 0.5 <= sum(points.values()) / total <= 0.65 and 0.2 <= file / total <= 0.3 and hand / total >= 0.15


def test_the_seed_of_the_cells_that_judge_comes_from_the_instructor_s_folder_and_reaches_no_student(
    elsewhere, tmp_path, monkeypatch
):
    text, source = places.source("hw04").read_text(), tmp_path / "hw04/hw04.md"
    (seed,) = set(re.findall(r"seed=(\d+)\)", text))
    source.parent.mkdir()
    source.write_text(text.replace(seed, "31415926535"))
    monkeypatch.setenv("ASSIGNMENTS_DIR", str(tmp_path))
    page = build("hw04", elsewhere[1]).read_text()
    assert page == (places.PAGES / "hw04.md").read_text() and seed not in page and "31415926535" not in page
    with zipfile.ZipFile(elsewhere[0] / "hw04/autograder.zip") as packed:
        held = {name: packed.read(name).decode(errors="ignore") for name in packed.namelist()}
    assert "31415926535" in held["tests/q6.py"] and not [name for name, said in held.items() if seed in said]


# A small assignment, into which faults are planted.
SMALL = SMALL.read_text()
LINE = "stay = theta * torch.log(theta / (theta + mean))"
TEST = "rows, mus, shapes = [[0, 3, 17], [5, 0, 1]], [[0.2, 3.5, 9.0], [2.0, 0.1, 1.5]], [0.5, 2.0, 8.0]"
FAULTS = {
    "a solution's line in the prose": (SMALL.replace("Write the", f"`{LINE}` Write the"), "holds 'stay"),
    "a solution outside its marks": (SMALL.replace("print(log_nb)", f"# {LINE}\nprint(log_nb)"), "holds 'stay"),
    "a test outside its marks": (SMALL.replace("print(log_nb)", f"{TEST}\nprint(log_nb)"), "holds 'rows"),
    "a wrong reference": (SMALL.replace("return ways + stay", "return ways - stay"), "the reference scores"),
    "a test that anything passes": (
        SMALL.replace("    out = log_nb(torch.zeros(1, 1)", "    return (lambda *a: 0)(torch.zeros(1, 1)"),
        "the unfilled notebook scores 1",
    ),
    "a given cell that an empty answer breaks": (
        SMALL.replace("print(log_nb)", "log_nb(*torch.ones(3, 1, 1)).sum()"),
        "a cell failed: AttributeError",
    ),
    "a page that asks for otter": (SMALL.replace("init_cell: false", "init_cell: true"), "asks for otter"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault, elsewhere, tmp_path, monkeypatch):
    text, complaint = FAULTS[fault]
    assert text != SMALL
    plant(text, tmp_path, monkeypatch)
    page = build("hw01", elsewhere[1])
    monkeypatch.setattr(GATE, "build", lambda *a: page)  # which it has just been: seconds of otter less
    with pytest.raises(Refused, match=re.escape(complaint)):
        gate("hw01")


def test_a_page_changed_by_hand_is_noticed(elsewhere, tmp_path, monkeypatch):
    plant(SMALL, tmp_path, monkeypatch)
    page = build("hw01", elsewhere[1])
    page.write_text(page.read_text().replace("no special case", "a special case"))
    with pytest.raises(Refused, match="is not what its source gives"):
        gate("hw01")


@pytest.mark.parametrize(
    "shown",
    [
        "<span>stay</span> <span>=</span> theta <b>*</b> torch.log(theta / (theta + mean))",
        '{"source": ["    stay = theta * torch.log(theta / (theta + mean))\\n"]}',
        "text before, stay  =  theta * torch.log(theta / (theta + mean)), and after",
    ],
)
def test_a_line_is_found_behind_markup_quotes_and_spaces(shown, tmp_path):
    file = tmp_path / "hw01.html"
    file.write_text(shown)
    secret = GATE.secret_lines(places.source("hw01").read_text())
    assert len(secret) > 60 and LINE in secret and TEST in secret
    assert GATE.leaks(secret, [file]) == [f"hw01.html holds {LINE!r}"]
    assert not GATE.leaks(secret, [places.PAGES / "hw01.md"])


def test_without_the_environment_or_the_assignment_a_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ASSIGNMENTS_DIR", str(tmp_path))
    with pytest.raises(Refused, match="there is: none. ASSIGNMENTS_DIR names another"):
        places.source("hw01")
    monkeypatch.setattr(places, "ROOT", tmp_path)
    with pytest.raises(Refused, match="run `make grading` once"):
        places.python()


def test_a_build_that_fails_leaves_the_last_one_and_no_key_to_the_answers(monkeypatch, tmp_path):
    monkeypatch.setattr(BUILD, "BUILT", tmp_path)
    (tmp_path / "hw01").mkdir()
    (tmp_path / "hw01/autograder.zip").write_bytes(b"the last one")

    def fails(*words, cwd):
        assert (cwd / "hw01.ipynb").exists()
        raise Refused("otter is not there")

    monkeypatch.setattr(BUILD, "otter", fails)
    with pytest.raises(Refused, match="not there"):
        BUILD.build("hw01", pages=tmp_path / "pages")
    assert [path.name for path in tmp_path.rglob("*")] == ["hw01", "autograder.zip"]


def test_what_marks_is_pinned_and_repeats_nothing_of_the_lock_but_wrapt():
    pins = {
        file: {re.split("==", line)[0].lower().replace("_", "-"): line for line in text.splitlines() if "==" in line}
        for file in (".ci/grading.txt", ".binder/requirements.txt")
        for text in [(places.ROOT / file).read_text()]
    }
    ours, lock = pins.values()
    assert "otter-grader" in ours and ours.keys() & lock.keys() == {"wrapt"}
