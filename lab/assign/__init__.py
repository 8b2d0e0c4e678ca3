"""Homework that marks itself: `build` makes the student's page from the instructor's source, `gate` proves that it
gives nothing away and marks right, `grade` marks a folder of submissions, one process each.

otter-grader runs in processes of its own, in the environment `.grading` that `make grading` makes.
"""

from .build import build
from .gate import gate
from .grade import grade
