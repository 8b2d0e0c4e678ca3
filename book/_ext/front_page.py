"""`{front-picture}`: the animation of the one cell of the book tagged `front-page`, as the build executed it."""

import execute
from contents import notebook_pages, read
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

TAG = "front-page"


def code_cells(nb):
    """All of a notebook that the cache keeps."""
    return [c for c in nb.cells if c.cell_type == "code"]


def shown():
    """The page whose cell is shown and the cell's place among its code cells, or None while no cell is tagged."""
    for page in notebook_pages():
        for i, cell in enumerate(code_cells(read(page))):
            if TAG in cell.metadata.get("tags", ()):
                return page, i
    return None


class FrontPicture(SphinxDirective):
    def run(self):
        if not (found := shown()):
            return []
        page, i = found
        cache = execute.open_cache()
        cell = code_cells(cache.get_cache_bundle(execute.entry(page, cache).pk).nb)[i]
        html = "".join(out.data.get("text/html", "") for out in cell.outputs if "data" in out)
        return [nodes.raw("", f'<figure class="front">{html}</figure>', format="html")]


def setup(app):
    app.add_directive("front-picture", FrontPicture)
    return {"parallel_read_safe": True, "version": "1"}
