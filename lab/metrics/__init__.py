"""How far two samples are apart, and (with chapter 6) how good samples are."""

from .distances import energy_distance, frechet_distance, mmd
