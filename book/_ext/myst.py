"""The subset of MyST that the book is written in, as blocks, for the reader notebooks and the chapter contract."""

import re
import textwrap
from dataclasses import dataclass, field

import yaml

ADMONITIONS = {"admonition", "note", "tip", "important", "warning", "hint", "seealso", "caution", "margin", "sidebar"}
THEOREMS = {
    "theorem",
    "lemma",
    "proposition",
    "corollary",
    "definition",
    "remark",
    "example",
    "algorithm",
    "assumption",
}
DIRECTIVES = (
    ADMONITIONS
    | {f"prf:{t}" for t in THEOREMS}
    | {
        "prf:proof",
        "dropdown",
        "exercise-start",
        "exercise-end",
        "solution-start",
        "solution-end",
        "math",
        "figure",
        "image",
        "table",
        "code-block",
    }
)
ROLES = {"eq", "cite:t", "cite:p", "numref", "ref", "doc", "term", "prf:ref", "math"}
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")

OPENING = re.compile(r"^(?P<fence>`{3,}|:{3,}|~{3,})\s*(?:\{(?P<name>[\w:-]+)\})?(?P<title>.*)$")
DISPLAY = re.compile(r"^\$\$(?P<body>.*?)\$\$(?:[ \t]*\((?P<label>[\w:.-]+)\))?[ \t]*$", re.M | re.S)


@dataclass
class Block:
    """A stretch of a page: `name` is the directive's, or "text", "code" (a literal fence), "equation"."""

    name: str
    body: str = ""
    title: str = ""
    options: dict = field(default_factory=dict)

    @property
    def label(self):
        return self.options.get("label") or self.options.get("name")

    @property
    def dropdown(self):
        return self.name == "dropdown" or "dropdown" in str(self.options.get("class", ""))


def options_of(body):
    """A directive's options, `:key: value` lines or a YAML block, and the body without them."""
    block = re.match(r"\A---\n(.*?)\n---\n?", body, re.S)
    if block:
        return yaml.safe_load(block[1]) or {}, body[block.end() :].strip("\n")
    found = re.match(r"\A\n*((?::[\w-]+:.*(?:\n|\Z))*)", body)
    return dict(re.findall(r"^:([\w-]+):[ \t]*(.*?)[ \t]*$", found[1], re.M)), body[found.end() :].strip("\n")


def blocks(text):
    """Split Markdown into blocks, in order. A directive's body is unread: call `blocks` on it for what is nested."""
    lines, plain = text.split("\n"), []
    i = 0
    while i < len(lines):
        opening = OPENING.match(lines[i])
        if not opening:
            plain.append(lines[i])
            i += 1
            continue
        fence = opening["fence"]
        end = next(
            (j for j in range(i + 1, len(lines)) if re.fullmatch(rf"{fence[0]}{{{len(fence)},}}\s*", lines[j])),
            len(lines),
        )
        body = "\n".join(lines[i + 1 : end])
        yield from equations("\n".join(plain))
        plain = []
        if opening["name"]:
            options, body = options_of(textwrap.dedent(body))
            yield Block(opening["name"], body, opening["title"].strip(), options)
        else:
            yield Block("code", "\n".join(lines[i : end + 1]))
        i = end + 1
    yield from equations("\n".join(plain))


def equations(text):
    """Split text without fences at its display equations."""
    at = 0
    for match in DISPLAY.finditer(text):
        yield from text_block(text[at : match.start()])
        yield Block("equation", match["body"].strip("\n"), options={"label": match["label"]} if match["label"] else {})
        at = match.end()
    yield from text_block(text[at:])


def text_block(text):
    if text.strip():
        yield Block("text", text.strip("\n"))


def walk(text):
    """Every block of the text, the nested ones after the block that holds them."""
    for block in blocks(text):
        yield block
        if block.name in ADMONITIONS | {"dropdown", "prf:proof", "table"} or block.name.startswith("prf:"):
            yield from walk(block.body)
