"""Predictions of what a perturbation does to cells, and their judge: `evaluate`, for every chapter and outside them."""

from .evaluate import evaluate
from .rows import METRICS, ROWS
from .scores import r2
from .splits import control_halves, hold_out
from .table import against, at_a_glance, draw, overall, summary
