"""How far two samples are apart, whether two models differ, and (with chapter 6) how good samples are."""

from .distances import energy_distance, frechet_distance, mmd
from .paired import Paired, paired
