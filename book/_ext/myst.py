"""The subset of MyST that the book is written in, as blocks, for the reader notebooks and the chapter contract."""

import functools
import re
from dataclasses import dataclass, field

from contents import config
from docutils.parsers.rst.directives.misc import TestDirective  # one argument and any option
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser

ADMONITIONS = set("admonition note tip important warning hint seealso caution margin sidebar".split())
THEOREMS = set("theorem lemma proposition corollary definition remark example algorithm assumption".split())
NESTING = ADMONITIONS | {f"prf:{t}" for t in THEOREMS} | {"prf:proof", "dropdown", "table"}
GATES = {"exercise-start", "exercise-end", "solution-start", "solution-end"}
DIRECTIVES = NESTING | GATES | {"math", "figure", "image", "code-block"}
ROLES = {"eq", "cite:t", "cite:p", "numref", "ref", "doc", "term", "prf:ref", "math"}
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")


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


@functools.cache
def parser():
    """The site's Markdown parser, down to blocks."""
    extensions = config()["parse"]["myst_enable_extensions"]
    return create_md_parser(
        MdParserConfig(enable_extensions=extensions, disable_syntax=["inline", "linkify"]), RendererHTML
    )


def blocks(text):
    """Split Markdown into blocks, in order. A directive's body is unread: call `blocks` on it for what is nested."""
    lines, at = text.split("\n"), 0
    for token in parser().parse(text):
        if token.level or not token.type.startswith(("fence", "colon_fence", "math_block")):
            continue
        start, end = token.map
        yield from plain(lines[at:start])
        at = end
        if token.type.startswith("math_block"):
            yield Block("equation", token.content.strip("\n"), options={"label": token.info} if token.info else {})
        elif directive := re.match(r"\{([\w:-]+)\}(.*)", token.info.strip()):
            inside = parse_directive_text(TestDirective, "", token.content)
            yield Block(directive[1], "\n".join(inside.body).strip("\n"), directive[2].strip(), inside.options)
        else:
            yield Block("code", "\n".join(lines[start:end]))
    yield from plain(lines[at:])


def plain(lines):
    """A block of text, unless all lines are blank."""
    if text := "\n".join(lines).strip("\n"):
        yield Block("text", text)


def walk(text):
    """Every block of the text, the nested ones after the block that holds them."""
    for block in blocks(text):
        yield block
        if block.name in NESTING:
            yield from walk(block.body)
