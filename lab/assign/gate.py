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
    """The lines of a source that no student may see: solutions, rubrics and tests, short ones left out."""
    tests = re.findall(r"^# BEGIN TESTS\n(.*?)^# END TESTS", text, re.S | re.M)
    code = re.findall(r"^ +# BEGIN SOLUTION\n(.*?)^ +# END SOLUTION", text, re.S | re.M)
    rubrics = re.findall(r"^Rubric.*?(?=^```)", text, re.S | re.M)
    lines = {line.strip() for part in [*tests, *code, *rubrics] for line in part.splitlines()}
    return {line for line in lines if len(line) >= SHORT and not line.startswith(("```", '"""'))}


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
    """All that students can reach: page and notebook; in the built site the html, its source, the search index."""
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
    if "otter" in after:
        raise Refused(
            f"{committed.name} asks for otter, which students do not have; set check_cell and init_cell to false"
        )
    best = mark(BUILT / name / "reference.ipynb", name, train=True)
    if best["note"] or best["score"] != best["possible"]:
        raise Refused(
            f"the reference scores {best['score']} of {best['possible']} ({best['note'] or best['marks']}); mend it"
        )
    empty = mark(BUILT / name / "dist/student" / f"{name}.ipynb", name, train=True)
    if empty["note"] or empty["score"]:
        raise Refused(
            f"the unfilled notebook scores {empty['score']} "
            f"({empty['note'] or empty['marks']}); it must run and score 0"
        )
    return best["marks"]
