"""The one line that a public check prints."""

import functools
from collections.abc import Callable


def public(points: int) -> Callable:
    """Make a check of a function that returns a complaint or None: it prints one line, and never raises."""

    def make(check: Callable) -> Callable:
        name = check.__name__

        @functools.wraps(check)
        def line(answer):
            try:
                complaint = check(answer)
            except Exception as error:
                complaint = f"{type(error).__name__}: {error}".splitlines()[0]
            passed = f"public check ok; hidden tests also count ({points} points)"
            print(f"{name}: {complaint or passed}")

        line.points = points
        return line

    return make


EMPTY = "not filled in yet"
