"""Sprites: pictures of one disc or square whose position, size and shape are known, drawn on the fly. A small relative
of dSprites (Matthey et al. 2017)."""

import anndata as ad
import numpy as np
import pandas as pd

from lab.errors import Refused

from ..card import Card, default

SHAPES = ["disc", "square"]
RADIUS = (0.1, 0.2)


def sprites(n: int = 2000, *, size: int = 16, width: float = 0.6, height: float = 0.24, seed: int = 0) -> ad.AnnData:
    """`n` pictures of `size` x `size` pixels: `X` (n, size^2) float32, row by row, the fraction of a pixel that the
    sprite covers, in [0, 1]. Not counts.

    The factors, all independent, in units of the picture's side: `obs["across"]` and `obs["down"]`, the centre from
    the upper left corner, uniform on a rectangle of `width` and `height` in the middle; `obs["radius"]`, uniform on
    [0.1, 0.2], a disc's radius or half a square's side; `obs["shape"]`, disc or square, equally likely. No
    sprite is cut off by an edge: `width` and `height` are at most 0.6.
    """
    if n < 1 or size < 4 or not (0 <= width <= 0.6 and 0 <= height <= 0.6):
        raise Refused(
            f"sprites need n >= 1, size >= 4 and centres in at most 0.6 x 0.6, lest an edge cut them off; "
            f"got n={n}, size={size}, {width} x {height}"
        )
    random = np.random.default_rng(seed)
    across, down = random.uniform(-0.5, 0.5, (2, n)) * [[width], [height]] + 0.5
    radius = random.uniform(*RADIUS, n)
    square = random.random(n) < 0.5
    pixels = np.stack([_draw(*sprite, size) for sprite in zip(across, down, radius, square, strict=True)])
    shape = pd.Categorical.from_codes(square.astype(int), SHAPES)
    obs = pd.DataFrame(
        {"across": across, "down": down, "radius": radius, "shape": shape}, index=[f"sprite {i + 1}" for i in range(n)]
    )
    return ad.AnnData(pixels, obs=obs, uns={"unit": "fraction of the pixel covered"})


CARD = Card(
    call="sprites()",
    kind="simulated",
    cells=default(sprites, "n"),
    genes=default(sprites, "size") ** 2,
    licence="none needed",
    source=__name__,
)


def _draw(across: float, down: float, radius: float, square: bool, size: int, fine: int = 4) -> np.ndarray:
    """One picture (size^2,): the share of `fine` x `fine` points of each pixel that lie inside."""
    points = (np.arange(size * fine) + 0.5) / (size * fine)
    right, below = np.abs(points[None] - across), np.abs(points[:, None] - down)
    inside = (np.maximum(right, below) if square else np.hypot(right, below)) < radius
    return inside.reshape(size, fine, size, fine).mean((1, 3)).astype(np.float32).ravel()
