"""What a model has to beat: the rows that stand beside it in every chapter."""

from .profile import THETAS, profile, profile_cells
