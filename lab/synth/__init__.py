"""Synthetic cells: what a simulator needs to know of real ones, and how near to them it comes."""

from .measure import measured
from .perturbed import perturbation_report
from .realism import picture, realism_report
