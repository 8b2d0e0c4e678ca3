"""Execute the book's notebook pages, two at a time, into the cache that Sphinx reads: `python book/_ext/execute.py`.

jupyter-cache knows a page by its code cells. Here each entry also carries the page's key, a digest of the parts of
`lab` that those cells reach (reach.py), of the lock and of the Python, and is run again when the key has changed.
"""

import hashlib
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import reach
from contents import ROOT, notebook_pages, read
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from traitlets.config import Config

TIMEOUT = 300  # seconds a cell may take


def key(page):
    """Digest of what the page's outputs depend on beside its cells."""
    return digest(reach.reach(reach.asked_for(page)) | {reach.Part(ROOT / ".binder/requirements.txt")})


def digest(parts):
    """One digest of the names and contents of parts of files, and of the Python that reads them."""
    sha = hashlib.sha256(sys.version.encode())
    for part in sorted(parts):
        if content := part.content():
            sha.update(f"{os.path.relpath(part.file, reach.LAB)} {part.name} {len(content)}\0".encode() + content)
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


def entry(page, cache):
    """The cache's entry for the page's cells, or None."""
    try:
        return cache.match_cache_notebook(read(page))
    except KeyError:
        return None


def cached(page, cache):
    """The cache's entry for the page, if its cells and its key are still the same, or None."""
    record = entry(page, cache)
    return record if record and record.data.get("key") == key(page) else None


def open_cache():
    """The cache of executed pages, where Jupyter Book looks for it."""
    return get_cache(str(ROOT / "_build/.jupyter_cache"))


def main():
    """Run what is stale; true if a page failed. A stale entry goes first, lest Sphinx show it after a failure."""
    cache, failed = open_cache(), False
    stale = {p: key(p) for p in notebook_pages() if not cached(p, cache)}  # keys of before: `lab` may change meanwhile
    for record in filter(None, (entry(page, cache) for page in stale)):
        cache.remove_cache(record.pk)
    # A fresh process for each page, so that its peak memory is its own.
    with ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(run, p) for p in stale]):
            page, nb, seconds, peak, error = job.result()
            failed |= bool(error)
            print(f"{page}: {error or f'{seconds:.0f} s, {peak:.1f} GB at its peak'}", flush=True)
            if not error:
                data = {"execution_seconds": round(seconds, 1), "peak_gb": round(peak, 2), "key": stale[page]}
                done = CacheBundleIn(nb, str(ROOT / page), data=data)
                cache.cache_notebook_bundle(done, check_validity=False, overwrite=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
