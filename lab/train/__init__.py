"""One training loop for every chapter, on one CPU or over many machines, and checkpoints that continue to the bit."""

from .loop import ema_update, fit, steps
from .schedule import cosine
