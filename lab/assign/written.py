"""Written answers: found in what was handed in, gathered under their rubrics for the person who marks them."""

import re
from dataclasses import dataclass
from pathlib import Path

LONGEST = 5_000  # characters of one answer that are shown; 150 words are about 1,000


@dataclass
class Question:
    """A question that a person marks: its heading, what it asks, its rubric."""

    heading: str
    text: str
    rubric: str

    @property
    def column(self) -> str:
        """The head of its column in the table, which is left for the marker to fill: `q7 (by hand)`."""
        return re.sub(r"^## Question (\d+).*", r"q\1 (by hand)", self.heading)


def questions(reference: Path) -> list[Question]:
    """The questions of an assignment that hold a rubric."""
    found, heading, asked = [], "", []
    for source in _texts(reference):
        if at := re.search(r"^## .*", source, re.M):
            heading, asked = at[0], [source[at.end() :].strip()]
        elif source.startswith("Rubric"):
            found.append(Question(heading, "\n\n".join(asked), source))
    return found


def words(notebook: Path, assignment: list[Path]) -> dict[str, str]:
    """What a student wrote, by the assignment's heading above it, or "": each line that none of the assignment's
    notebooks has."""
    given = {line.strip() for path in assignment for source in _texts(path) for line in source.splitlines()}
    headings, under, found = {line for line in given if line.startswith("## ")}, "", {}
    for source in _texts(notebook):
        for line in source.splitlines():
            if line.strip() in headings:
                under = line.strip()
            elif not line.strip() or line.strip() not in given | {"---"}:
                found[under] = f"{found.get(under, '')}{line.rstrip()}\n"
        found[under] = found.get(under, "") + "\n"
    return {heading: text.strip() for heading, text in found.items() if text.strip()}


def gathered(asked: list[Question], rows: list[dict]) -> str:
    """All answers as Markdown: by question its text and rubric, then student by student, each answer in a fence that no
    line of it can close, so that it is shown as it was typed."""
    parts = ["# Written answers", "Points go into the table's columns *by hand*, which are empty."]
    for one in asked:
        parts += [one.heading, one.text, one.rubric]
        for row in rows:
            text = row["written"].get(one.heading, "")
            if not text and row["written"]:
                text = "\n\n".join(row["written"].values())
                parts += [f"### {_inline(row['submission'])}", "Nothing under the question; this stands elsewhere:"]
            else:
                parts += [f"### {_inline(row['submission'])}", f"{len(text.split())} words" if text else "Nothing."]
            if text:
                parts.append(_fenced(text))
    return "\n\n".join(parts) + "\n"


def _texts(notebook: Path) -> list[str]:
    import nbformat

    return [
        re.sub(r"<!-- (BEGIN|END) QUESTION -->", "", cell.source).strip()
        for cell in nbformat.read(notebook, as_version=4).cells
        if cell.cell_type == "markdown"
    ]


def _plain(text: str) -> str:
    """Without control characters and those that turn the direction of writing."""
    return "".join(c if c.isprintable() or c in "\n\t\xa0\u200d" else "\ufffd" for c in text)


def _fenced(text: str) -> str:
    shown = _plain("\n".join(text.splitlines()))
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} … ({len(shown) - LONGEST} characters more)"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def _inline(name: str) -> str:
    shown = _plain(name).replace("\n", "\ufffd")
    ticks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{ticks} {shown} {ticks}"
