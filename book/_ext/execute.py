"""Execute the book's notebook pages, two at a time, into the cache that Sphinx reads: `python book/_ext/execute.py`.

jupyter-cache knows a page by its code cells. Here each entry also carries a digest of what those cells import from
`lab` and of the lock, and is run again when the digest has changed.
"""

import ast
import functools
import hashlib
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from contents import ROOT, notebook_pages, read
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from traitlets.config import Config

TIMEOUT = 300  # seconds a cell may take


def lab_modules(source):
    """The `lab` modules that Python source imports; {"*"} where it takes the package whole or runs its command."""
    if re.search(r"-m lab\b|[\"']-m[\"'], [\"']lab[\"']|^\s*import lab\b(?!\.)", source, re.M):
        return {"*"}
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("lab.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "lab"):
            inside = (
                [] if node.level and not node.module else (node.module or "").removeprefix("lab").strip(".").split(".")
            )
            names |= {inside[0]} if inside and inside[0] else {a.name for a in node.names}
    return names


@functools.cache
def files_of(module):
    """The files of `lab/module.py` or `lab/module/`, and of all that they import in turn."""
    lab, seen, todo = ROOT / "lab", set(), [module]
    while todo:
        name = todo.pop()
        for f in {lab / f"{name}.py", *(lab.rglob("*") if name == "*" else (lab / name).rglob("*"))} - seen:
            if f.is_file() and "__pycache__" not in f.parts:
                seen.add(f)
                todo += lab_modules(f.read_text()) if f.suffix == ".py" else []
    return frozenset(seen)


def key(page):
    """Digest of what the page's outputs depend on beside its cells: the `lab` modules it reaches, and the lock."""
    source = "\n".join(c.source for c in read(page).cells if c.cell_type == "code")
    return digest(
        {ROOT / "lab/__init__.py", ROOT / ".binder/requirements.txt"}.union(*map(files_of, lab_modules(source)))
    )


def digest(files):
    """One digest of the files' names and contents, and of the Python that reads them."""
    sha = hashlib.sha256(sys.version.encode())
    for f in sorted(files):
        sha.update(str(f.relative_to(ROOT)).encode() + b"\0" + f.read_bytes())
    return sha.hexdigest()


def run(page):
    """Execute one page in its own folder: page, executed notebook, seconds with the kernel's start, peak GB, error."""
    nb, start = read(page), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # sockets are files: kernels that start at once can draw one port
        sockets = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        result = single_nb_execution(
            nb,
            str((ROOT / page).parent),
            TIMEOUT,
            allow_errors=False,
            config=sockets,
            extra_arguments=["--log-level=ERROR"],
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    return page, nb, time.monotonic() - start, peak, result.exc_string


def cached(page, cache):
    """The cache's entry for the page, if its cells and its digest are still the same; a stale entry is removed."""
    try:
        record = cache.match_cache_notebook(read(page))
    except KeyError:
        return None
    if record.data.get("key") == key(page):
        return record
    cache.remove_cache(record.pk)


def open_cache():
    """The cache of executed pages, where Jupyter Book looks for it."""
    return get_cache(str(ROOT / "_build/.jupyter_cache"))


def main():
    cache, failed = open_cache(), False
    stale = [p for p in notebook_pages() if not cached(p, cache)]
    # A fresh process for each page, so that its peak memory is its own.
    with ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(run, p) for p in stale]):
            page, nb, seconds, peak, error = job.result()
            failed |= bool(error)
            print(f"{page}: {error or f'{seconds:.0f} s, {peak:.1f} GB at its peak'}", flush=True)
            if not error:
                data = {"execution_seconds": round(seconds, 1), "peak_gb": round(peak, 2), "key": key(page)}
                cache.cache_notebook_bundle(
                    CacheBundleIn(nb, str(ROOT / page), data=data), check_validity=False, overwrite=True
                )
    return failed


if __name__ == "__main__":
    sys.exit(main())
