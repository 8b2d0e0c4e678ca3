"""What the site needs beyond Jupyter Book: pages follow `lab`, no script comes from elsewhere, downloads read well."""

import copy
import shutil
from pathlib import Path

import execute
import lab_reference
import reach
from contents import ROOT, chapter, notebook_pages


def changed_pages(app, env, added, changed, removed):
    """Sphinx looks at a page's own date; outputs follow `lab` and the lock, buttons the notebook beside the page, the
    reference all of `lab` and the chapters that use it."""

    def beside(page):
        return {reach.Part(f) for f in (ROOT / page.parent).glob(f"{page.stem}.ipynb")}

    keys = {str(p.with_suffix("")): execute.key(p) + execute.digest(beside(p)) for p in notebook_pages()}
    whole = execute.digest(map(reach.Part, reach.files(reach.LAB)))
    users = {part: list(map(str, pages)) for part, pages in lab_reference.users().items()}
    keys |= dict.fromkeys(lab_reference.pages(), f"{whole} {sorted(users.items())}") | {"book/index": str(keys)}
    known, env.output_keys = getattr(env, "output_keys", {}), keys
    return [page for page, key in keys.items() if key != known.get(page) and page in env.found_docs - added]


def restore_numbers(app, env):
    """Sphinx rewrites the pages whose numbers differ from its last ones: give it its own to compare with."""
    env.toc_fignumbers = getattr(env, "sphinx_fignumbers", {})
    return []


def number_by_chapter(app, env):
    """Figure 1.2 is the second of chapter 1 (Sphinx would count through the book): chapter numbers are the map's."""
    env.sphinx_fignumbers = copy.deepcopy(env.toc_fignumbers)
    for page, kinds in env.toc_fignumbers.items():
        n = chapter(page)
        for numbers in kinds.values():
            for i, anchor in enumerate(sorted(numbers, key=numbers.get), start=1):
                numbers[anchor] = (i,) if n is None else (n, i)
    return []


def drop_thebe(app, pagename, templatename, context, doctree):
    """The theme adds thebe (live cells, loaded from a CDN) whatever the configuration says."""

    def wanted(script):
        body = getattr(script, "attributes", {}).get("body") or ""
        return "thebe" not in f"{getattr(script, 'filename', script)}{body}"

    context["script_files"] = [s for s in context.get("script_files", []) if wanted(s)]
    context["css_files"] = [s for s in context.get("css_files", []) if wanted(s)]


def offer_reader_notebook(app, pagename, templatename, context, doctree):
    """The download button gives the notebook that Colab opens, not the raw MyST one."""
    reader = (Path(app.srcdir) / pagename).with_suffix(".ipynb")
    offered = Path(app.outdir, "_sources", pagename).with_suffix(".ipynb")
    if reader.exists() and offered.exists():
        shutil.copyfile(reader, offered)


def setup(app):
    app.connect("env-get-outdated", changed_pages)
    app.connect("env-get-updated", restore_numbers, priority=100)
    app.connect("env-get-updated", number_by_chapter, priority=900)  # after Sphinx has numbered them
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", offer_reader_notebook, priority=901)
    return {"parallel_read_safe": True, "version": "1"}
