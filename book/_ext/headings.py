"""Titles with the chapter's number, since the text says "chapter 3"; a sidebar that folds; ids that stand once.

Links, search and the reader notebooks keep the title as its page says it.
"""

from bs4 import BeautifulSoup
from contents import chapter
from docutils import nodes

FOLDED = {"Data"}  # parts of the table of contents that stand closed in the sidebar of other parts' pages


def numbered(page, title):
    """`3 · A VAE for counts`; a page that is no chapter keeps its title."""
    n = chapter(page)
    return title if n is None else f"{n} · {title}"


def number_titles(app, pagename, templatename, context, doctree):
    """The browser's tab, the head of a printed page, and the links to the page before and after."""
    for key in {"title", "pagetitle"} & context.keys():
        context[key] = numbered(pagename, context[key])
    for key in ("prev", "next"):
        if link := context.get(key):
            context[key] = link | {"title": numbered(link["link"], link["title"])}


def arrange_sidebar(app, pagename, templatename, context, doctree):
    """Numbers before the chapters, and the folded parts folded."""
    draw = context["generate_toctree_html"]

    def sidebar(**options):
        soup = BeautifulSoup(str(draw(**options)), "html.parser")
        for a in soup.select("a.internal"):
            a.insert(0, numbered(pagename if a["href"] == "#" else a["href"], ""))
        for caption in soup.select("p.caption"):
            if caption.get_text(strip=True) in FOLDED:
                pages = caption.find_next_sibling("ul")
                part = caption.wrap(soup.new_tag("summary")).wrap(soup.new_tag("details", attrs={"class": "part"}))
                part.append(pages)
                if pages.select_one(".current"):
                    part["open"] = ""
        return soup

    context["generate_toctree_html"] = sidebar


def number_heading(app, doctree, docname):
    """The page's own heading, once links and the index have taken their text from it."""
    if chapter(docname) is not None:
        title = next(doctree.findall(nodes.title))
        title.insert(0, nodes.inline("", numbered(docname, ""), classes=["chapter-number"]))


def drop_repeated_ids(app, doctree, docname):
    """sphinx-exercise calls the inside of every exercise and solution alike; nothing links there."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []


def setup(app):
    app.connect("doctree-resolved", number_heading)
    app.connect("doctree-resolved", drop_repeated_ids)
    app.connect("html-page-context", number_titles, priority=900)
    app.connect("html-page-context", arrange_sidebar, priority=900)  # after the theme has given its own
    return {"parallel_read_safe": True, "version": "1"}
