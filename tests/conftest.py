"""Tests marked `real` read data sets from the folder that LAB_DATA names; without it they are skipped.

All other tests never see LAB_DATA.
"""

import os

import pytest

LAB_DATA = os.environ.get("LAB_DATA")


def pytest_collection_modifyitems(items):
    if not LAB_DATA:
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(pytest.mark.skip(reason="LAB_DATA is not set"))


@pytest.fixture(autouse=True)
def _lab_data_only_where_asked(request, monkeypatch):
    if not request.node.get_closest_marker("real"):
        monkeypatch.delenv("LAB_DATA", raising=False)
