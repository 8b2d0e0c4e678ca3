"""nbval runs the reader notebooks; what it leaves uncompared."""


def pytest_collectstart(collector):
    """Pictures and HTML are not kept in the notebooks, and progress bars tell the time."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml", "stderr")
