"""nbval runs the reader notebooks; what it leaves uncompared, and LAB_JITTER, which stands for another processor."""

import os
import shutil
import tempfile
from pathlib import Path

if os.environ.get("LAB_JITTER"):
    PROFILE = tempfile.TemporaryDirectory()  # gone when the tests are
    START_UP = Path(PROFILE.name, "profile_default", "startup")
    START_UP.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("_ext") / "jitter.py", START_UP)
    os.environ["IPYTHONDIR"] = PROFILE.name


def pytest_collectstart(collector):
    """Pictures and HTML are not kept in the notebooks, and progress bars tell the time."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml", "stderr")
