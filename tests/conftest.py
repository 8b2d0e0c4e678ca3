"""Tests marked `real` read data sets from the folder that LAB_DATA names; without it they are skipped.

All other tests never see LAB_DATA.
"""

import ast
import functools
import os
import sys
import tempfile
from pathlib import Path

import nbval.kernel
import pytest

LAB_DATA = os.environ.get("LAB_DATA")


# nbval's kernels talk through files: of two that start at once, both may draw the same port.
SOCKETS = tempfile.TemporaryDirectory()
nbval.kernel.KernelManager = functools.partial(nbval.kernel.KernelManager, transport="ipc", ip=f"{SOCKETS.name}/kernel")


def pytest_collection_modifyitems(items):
    if not LAB_DATA:
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(pytest.mark.skip(reason="LAB_DATA is not set"))


@pytest.fixture(autouse=True)
def _lab_data_only_where_asked(request, monkeypatch):
    if not request.node.get_closest_marker("real"):
        monkeypatch.delenv("LAB_DATA", raising=False)


@pytest.fixture
def from_page():
    """from_page("book/latent/02-conditional-vae.md", "response"): what a page's imports and the cells that define these
    functions leave behind, so that a test can call a chapter's own code on real data."""
    import torch
    from contents import code

    def namespace(page, *names):
        cells = code(Path(page))[1:]  # not the set-up
        found = {"torch": torch}  # which that cell imports
        for cell in cells:
            if all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in ast.parse(cell).body):
                exec(cell, found)
        for name in names:
            exec(next(c for c in cells if f"def {name}(" in c), found)
        return found

    return namespace


@pytest.fixture
def pretend_mamba(tmp_path, monkeypatch):
    """pretend_mamba(text): a mamba_ssm whose interface is this."""
    from lab.ssm import backends

    def forget():
        backends.cuda_kernel.cache_clear()
        for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
            del sys.modules[name]

    def install(text):
        package = tmp_path / "mamba_ssm" / "ops"
        package.mkdir(parents=True)
        for init in (package.parent / "__init__.py", package / "__init__.py"):
            init.write_text("")
        (package / "selective_scan_interface.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    yield install
    forget()
