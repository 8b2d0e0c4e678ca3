"""The gate: what a student receives gives nothing away, and what the reference hands in scores everything."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lab.errors import Refused

from .build import build
from .grade import mark
from .places import BUILT, PAGES, ROOT, source

SHORT = 25  # a line that is shorter, such as a bare `return x`, may stand anywhere


def secret_lines(text: str) -> set[str]:
    """The lines of a source that no student may see: solutions, rubrics, tests; short ones, and those that the
    student's part has too, left out."""
    tests = re.findall(r"# BEGIN TESTS\n(.*?)# END TESTS", text, re.S)
    inner = re.findall(r"^[ ]*# BEGIN SOLUTION\n(.*?)# END SOLUTION", text, re.S | re.M)
    solutions = [part for part in inner if "BEGIN SOLUTION" not in part and "def " not in part.split("\n")[0]]
    given = re.sub(r"# BEGIN (TESTS|SOLUTION)\n.*?# END \1", "", text, flags=re.S)
    rubric = [part for part in inner if "Rubric" in part]
    lines = {line.strip() for part in [*tests, *body(text), *solutions, *rubric] for line in part.splitlines()}
    public = {line.strip() for line in given.splitlines()}
    return {line for line in lines if len(line) >= SHORT and line not in public and not line.startswith(("```", '"""'))}


def body(text: str) -> list[str]:
    """What stands between the marks inside a code cell."""
    return re.findall(r"^ +# BEGIN SOLUTION\n(.*?)^ +# END SOLUTION", text, re.S | re.M)


def leaks(secret: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Which secret lines stand in which files, whatever their markup or spacing."""
    bare = lambda text: re.sub(r"<[^>]*>|\\n|\\|\s|&\w+;|[\"'<>&]", "", text)
    sought = {line: bare(line) for line in secret}
    found = []
    for file in files:
        text = bare(file.read_text(encoding="utf-8", errors="ignore"))
        found += [f"{file.name} holds {line!r}" for line, naked in sought.items() if naked and naked in text]
    return found


def student_files(name: str) -> list[Path]:
    """All that students can reach: page and notebook, and in the built site its html, its source and the search index."""
    site = ROOT / "_build/html"
    html = [
        *site.glob(f"book/assignments/{name}*"),
        *site.glob(f"_sources/book/assignments/{name}*"),
        *site.glob("searchindex.js"),
    ]
    return [*PAGES.glob(f"{name}.*"), *html]


def gate(name: str) -> dict[str, float]:
    """Build anew and prove it: the page is the committed one, nothing leaks, the reference scores all and an unfilled
    notebook nothing. Returns the reference's marks by question; raises `Refused` with the first reason against it."""
    committed = PAGES / f"{name}.md"
    before = committed.read_text(encoding="utf-8") if committed.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        after = build(name, Path(folder)).read_text(encoding="utf-8")
    if after != before:
        raise Refused(f"{committed.name} is not what its source gives; run `python -m lab assign build {name}`")
    if found := leaks(secret_lines(source(name).read_text(encoding="utf-8")), student_files(name)):
        raise Refused(f"{found[0]}; move that line between the marks of a solution or test, or write it otherwise")
    best = mark(BUILT / name / "reference.ipynb", name)
    if best["note"] or best["score"] != best["possible"]:
        raise Refused(
            f"the reference scores {best['score']} of {best['possible']} ({best['note'] or best['marks']}); mend it"
        )
    empty = mark(BUILT / name / "dist/student" / f"{name}.ipynb", name)
    if empty["note"] or empty["score"]:
        raise Refused(
            f"the unfilled notebook scores {empty['score']} ({empty['note'] or empty['marks']}); it must run and score 0"
        )
    return best["marks"]
