"""Tests marked `real` read data sets from the folder that LAB_DATA names; without it they are skipped.

All other tests never see LAB_DATA.
"""

import functools
import os
import tempfile

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
