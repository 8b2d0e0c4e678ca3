"""Running text without MyST: roles, citations and links as plain Markdown, with addresses that hold anywhere."""

import functools
import re

from contents import ROOT, raw_url, site_url, title_of
from labels import targets
from myst import ROLE, ROLES
from pybtex.database import parse_file


@functools.cache
def bibliography():
    """key -> entry of references.bib."""
    return parse_file(str(ROOT / "references.bib")).entries


def surnames(entry):
    """Who wrote it: one name, two, or the first and "et al."."""
    names = [re.sub(r"[{}]", "", " ".join(p.prelast_names + p.last_names)) for p in entry.persons["author"]]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def address(entry):
    """Where it can be read."""
    return f"https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else entry.fields.get("url", "")


def cite(keys, parenthesis):
    """Name and year of each entry, linked; all inside one parenthesis, or only the years."""
    shown = []
    for key in keys.split(","):
        entry = bibliography()[key.strip()]
        year = entry.fields["year"]
        text = f"{surnames(entry)}, {year}" if parenthesis else f"{surnames(entry)} ({year})"
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
        other = ROOT.joinpath(key.lstrip("/") if key.startswith("/") else page.parent / key).resolve()
        other = other.relative_to(ROOT).parent / f"{other.name.removesuffix('.md')}.md"
        return f"[{shown or title_of(other)}]({site_url(other)})"
    if key not in targets():
        raise ValueError(f"{page}: {{{name}}}`{content}` points at a label that no page has")
    to = targets()[key]
    called = f"({to.number})" if to.kind == "equation" else f"{to.kind.capitalize()} {to.number}".strip()
    text = shown.replace("%s", to.number) or (to.title if name == "ref" else "") or called
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


def prose(page, text):
    """Text between directives: roles and links resolved, labels and comments gone."""
    text = re.sub(r"^\([\w:.-]+\)=\n|^%.*\n?", "", text, flags=re.M)
    return links(page, ROLE.sub(functools.partial(role, page), text))
