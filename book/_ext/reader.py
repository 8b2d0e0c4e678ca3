"""Write the reader notebook beside each notebook page: `python book/_ext/reader.py` (`make notebooks`).

What Colab, Binder and JupyterLab open: plain Markdown instead of MyST, and the page's own code cells, already executed.
The text outputs stay, as the reference that nbval compares with; pictures and HTML go: the reader's run draws them.
"""

import functools
import hashlib
import re
import sys
from dataclasses import dataclass

import execute
import nbformat
import yaml
from execute import ROOT
from myst import ADMONITIONS, DIRECTIVES, ROLE, ROLES, blocks, walk
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import parse_file

KEPT = ("text/plain", "text/markdown")
HIDDEN = {"remove-cell", "remove-output"}  # tags of cells whose figure the site does not number


@dataclass
class Target:
    """Something that a page labels: what it is called and where it is."""

    page: object
    kind: str
    number: str
    title: str = ""
    anchor: str = ""


@functools.cache
def config():
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def site_url(page, anchor=""):
    """The page's address on the published site: GitHub Pages, unless `html: baseurl` names another."""
    owner, name = config()["repository"]["url"].rstrip("/").split("/")[-2:]
    base = config().get("html", {}).get("baseurl") or f"https://{owner}.github.io/{name}"
    return f"{base.rstrip('/')}/{page.with_suffix('.html').as_posix()}{'#' if anchor else ''}{anchor}"


def setup_cell():
    """The code every chapter begins with."""
    return f"""# Colab has all but this book's own package; what is there (torch, numpy, IPython) stays as it is.
import importlib.util
import os

if importlib.util.find_spec("lab") is None:
    %pip install -q "generating-cells @ git+{config()["repository"]["url"]}"
os.environ.setdefault("ACCELERATE_USE_CPU", "true")      # small models: also where there is a GPU

import torch

from lab import plot

torch.manual_seed(0)
plot.style()"""


def title_of(page):
    return re.search(r"^# (.+)$", (ROOT / page).read_text(), re.M)[1].strip()


def cells_of(page):
    """The page's cells; a page that is no notebook is one Markdown cell."""
    if page in execute.notebook_pages():
        return execute.read(page).cells
    return [new_markdown_cell(re.sub(r"\A---\n.*?\n---\n", "", (ROOT / page).read_text(), flags=re.S))]


def numbered(page):
    """(label, kind, number, title) of everything on the page that the site numbers, in the page's order."""
    chapter = re.match(r"(\d\d)-", page.name)
    counts = {}

    def number(kind):
        counts[kind] = counts.get(kind, 0) + 1
        return f"{int(chapter[1])}.{counts[kind]}" if chapter and kind != "equation" else str(counts[kind])

    for cell in cells_of(page):
        if cell.cell_type == "code":
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if figure.get("caption") and not HIDDEN & set(cell.metadata.get("tags", [])):
                yield figure.get("name"), "figure", number("figure"), ""
            continue
        for block in walk(cell.source):
            kind = {"math": "equation", "exercise-start": "exercise"}.get(block.name, block.name).removeprefix("prf:")
            if (
                kind == "equation"
                and not block.label
                or kind == "table"
                and not block.title
                or "nonumber" in block.options
            ):
                continue
            if kind in {"equation", "exercise", "figure", "table"} or block.name.startswith("prf:") and kind != "proof":
                yield block.label, kind, number(kind), block.title
        for label, heading in re.findall(r"^\(([\w:.-]+)\)=\n+#+ (.+)$", cell.source, re.M):
            yield label, "section", "", heading


@functools.cache
def targets():
    """label -> Target, over the whole book."""
    return {
        label: Target(page, kind, number, title, f"equation-{label}" if kind == "equation" else label)
        for page in execute.pages()
        if (ROOT / page).exists()
        for label, kind, number, title in numbered(page)
        if label
    }


@functools.cache
def bibliography():
    return parse_file(str(ROOT / "references.bib")).entries


def surnames(entry):
    names = [re.sub(r"[{}]", "", " ".join(p.prelast_names + p.last_names)) for p in entry.persons["author"]]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def address(entry):
    return f"https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else entry.fields.get("url", "")


def cite(keys, parenthesis):
    shown = []
    for key in keys.split(","):
        entry = bibliography()[key.strip()]
        text = (
            f"{surnames(entry)}, {entry.fields['year']}"
            if parenthesis
            else f"{surnames(entry)} ({entry.fields['year']})"
        )
        shown.append(f"[{text}]({address(entry)})" if address(entry) else text)
    return f"({'; '.join(shown)})" if parenthesis else ", ".join(shown)


def role(page, match):
    """A role as text or link."""
    name, content = match[1], match[2]
    if name not in ROLES:
        raise ValueError(f"{page}: the role {{{name}}} has no form in a reader notebook: use one of {sorted(ROLES)}")
    if name.startswith("cite:"):
        return cite(content, parenthesis=name == "cite:p")
    if name == "math":
        return f"${content}$"
    shown, key = named.groups() if (named := re.fullmatch(r"(.+?)\s*<(.+)>", content)) else ("", content)
    if name == "term":
        return shown or key
    if name == "doc":
        other = (
            execute.ROOT.joinpath(key.lstrip("/") if key.startswith("/") else page.parent / key)
            .resolve()
            .relative_to(ROOT)
        )
        other = other.parent / f"{other.name.removesuffix('.md')}.md"
        return f"[{shown or title_of(other)}]({site_url(other)})"
    if key not in targets():
        raise ValueError(f"{page}: {{{name}}}`{content}` points at a label that no page has")
    to = targets()[key]
    text = shown.replace("%s", to.number) or (
        to.title
        if name == "ref" and to.title
        else f"({to.number})"
        if to.kind == "equation"
        else f"{to.kind.capitalize()} {to.number}".strip()
    )
    return text if to.page == page else f"[{text}]({site_url(to.page, to.anchor)})"


def links(page, text):
    """Links to other pages of the book, as links to the site; pictures, as links to the repository."""

    def absolute(match):
        bang, shown, target = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = (ROOT / page.parent / path).resolve().relative_to(ROOT)
        return f"{bang}[{shown}]({site_url(path, anchor) if path.suffix == '.md' else raw_url(path)})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, text)


def raw_url(path):
    repository = config()["repository"]
    raw = repository["url"].replace("github.com", "raw.githubusercontent.com")
    return f"{raw}/{repository['branch']}/{path.as_posix()}"


def prose(page, text):
    """Text between directives: roles and links resolved, labels and comments gone; inline code is left alone."""
    text = re.sub(r"^\([\w:.-]+\)=\n|^%.*\n?", "", text, flags=re.M)
    return links(page, ROLE.sub(functools.partial(role, page), text))


def quote(text):
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(summary, body):
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def markdown(page, text):
    """MyST as Markdown that Colab, JupyterLab and GitHub show alike."""
    return "\n\n".join(filter(None, (render(page, block) for block in blocks(text))))


def render(page, block):
    """One block as Markdown."""
    name, title = block.name, prose(page, block.title)
    number = targets()[block.label].number if block.label in targets() else ""
    if name == "text":
        return prose(page, block.body)
    if name == "code":
        return block.body
    if name == "code-block":
        return f"```{block.title}\n{block.body}\n```"
    if name in {"equation", "math"}:
        tag = f" \\tag{{{number}}}" if number else ""
        return f"$$\n{block.body}{tag}\n$$"
    if name in {"exercise-end", "solution-end"}:
        return ""
    if name == "exercise-start":
        return f"### Exercise {number}{f': {title}' if title else ''}"
    if name == "solution-start":
        return f"#### Solution of exercise {targets()[block.title].number}"
    if name in {"figure", "image"}:
        picture = links(page, f"![{block.options.get('alt', '')}]({block.title})")
        return "\n\n".join(
            filter(None, [picture, name == "figure" and f"**Figure {number}.** {markdown(page, block.body)}"])
        )
    if name not in DIRECTIVES:
        raise ValueError(
            f"{page}: the directive {{{name}}} has no form in a reader notebook: use one of {sorted(DIRECTIVES)}"
        )
    body = markdown(page, block.body)
    if name == "table":
        return f"**Table {number}.** {title}\n\n{body}"
    if name in ADMONITIONS:
        heading = title or ("" if name in {"margin", "sidebar"} else name.capitalize())
    elif name == "dropdown":
        heading = title
    else:
        heading = (
            f"{name.removeprefix('prf:').capitalize()}{f' {number}' if number else ''}{f' ({title})' if title else ''}"
        )
    return details(heading, body) if block.dropdown else quote(f"**{heading}**\n\n{body}" if heading else body)


def outputs_of(cell):
    """What nbval compares: printed text and the text form of results. Nothing for a cell whose output it ignores."""
    kept = []
    for out in [] if "nbval-ignore-output" in cell.metadata.get("tags", []) else cell.outputs:
        if out.output_type == "stream":
            if out.name == "stdout" and kept and kept[-1].output_type == "stream":
                kept[-1].text += out.text
            elif out.name == "stdout":
                kept.append(out.copy())
        elif out.output_type in {"display_data", "execute_result"}:
            out = nbformat.from_dict({**out, "data": {k: v for k, v in out.data.items() if k in KEPT}, "metadata": {}})
            kept += [out] if out.data else []
    return kept


def reader_notebook(page, executed=None):
    """The page's reader notebook; `executed` is the page's notebook with outputs, without it there are none."""
    source = (executed or execute.read(page)).cells
    cells, solving = [], False
    figures = iter([n for _, kind, n, _ in numbered(page) if kind == "figure"])
    head = f"[Generating Cells]({site_url(page)}) · this notebook is the page, ready to run from top to bottom."
    for cell in source:
        if cell.cell_type == "code":
            new = new_code_cell(cell.source)
            if cell.metadata.get("tags"):
                new.metadata["tags"] = list(cell.metadata["tags"])
            if solving:
                new.metadata["jupyter"] = {"source_hidden": True}
            if executed:
                new.outputs, new.execution_count = outputs_of(cell), cell.execution_count
            cells.append(new)
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if figure.get("caption") and not HIDDEN & set(cell.metadata.get("tags", [])):
                cells.append(new_markdown_cell(f"**Figure {next(figures)}.** {prose(page, figure['caption'].strip())}"))
            continue
        for gate in re.findall(r"\{(solution-start|solution-end)\}", cell.source):
            solving = gate == "solution-start"
        for block in blocks(cell.source):
            next(figures) if block.name == "figure" else None
        # An exercise and its solution each begin a cell, so that a notebook's outline can fold them.
        parts = re.split(r"^(?=(?:`{3,}|:{3,})\{(?:exercise|solution)-start\})", cell.source, flags=re.M)
        cells += [new_markdown_cell(text) for part in parts if (text := markdown(page, part).strip())]
    title, _, rest = cells[0].source.partition("\n")
    cells[0].source = f"{title}\n\n{head}\n{rest}".rstrip()
    return finish(cells)


def finish(cells):
    """Ids from content, so that a change in one cell leaves the others' alone; metadata that no machine changes."""
    seen = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def main():
    cache = execute.open_cache()
    for page in execute.notebook_pages():
        _, executed = cache.merge_match_into_notebook(execute.read(page))
        nb = reader_notebook(page, executed)
        nbformat.validate(nb)
        nbformat.write(nb, ROOT / page.with_suffix(".ipynb"))
        print(page.with_suffix(".ipynb"))


if __name__ == "__main__":
    sys.exit(main())
