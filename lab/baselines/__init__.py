"""What a model has to beat: the rows that stand beside it in every chapter."""

from .perturb import additive, nearest, perturbed_mean, ridge, target_features
from .profile import THETAS, profile, profile_cells
