"""Sprites: pictures whose pixels say what the factors are."""

import numpy as np
import pytest
from scipy import stats

from lab import data
from lab.errors import Refused


@pytest.fixture(scope="module")
def sprites():
    return data.sprites(500, size=16, seed=1)


def moments(adata, size=16):
    """Area and centre of each picture, in units of its side."""
    pictures = adata.X.reshape(-1, size, size).astype(float)
    area = pictures.sum((1, 2))
    middle = (np.arange(size) + 0.5) / size
    return area / size**2, pictures.sum(1) @ middle / area, pictures.sum(2) @ middle / area


def test_the_ink_is_the_area_of_a_disc_or_a_square(sprites):
    area, _, _ = moments(sprites)
    radius = sprites.obs["radius"].to_numpy()
    exact = np.where(sprites.obs["shape"] == "disc", np.pi * radius**2, 4 * radius**2)
    assert np.abs(area / exact - 1).max() < 0.15 and np.abs((area / exact).mean() - 1) < 0.005


def test_the_centre_of_mass_is_the_stated_centre(sprites):
    _, x, y = moments(sprites)
    assert np.abs(x - sprites.obs["across"]).max() < 0.01 and np.abs(y - sprites.obs["down"]).max() < 0.01


def test_factors_are_independent_and_uniform_on_what_is_stated():
    obs = data.sprites(4000, size=4, width=0.5, height=0.1).obs
    for column, low, high in (("across", 0.25, 0.75), ("down", 0.45, 0.55), ("radius", 0.1, 0.2)):
        assert stats.kstest(obs[column], stats.uniform(low, high - low).cdf).pvalue > 0.001
    numbers = obs[["across", "down", "radius"]].assign(square=obs["shape"] == "square").to_numpy(float)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.06


def test_no_sprite_touches_the_edge_by_more_than_it_may():
    edge = data.sprites(300, size=20, width=0.6, height=0.6).X.reshape(-1, 20, 20)
    assert 0 <= edge.min() and edge.max() == 1
    area, _, _ = moments(data.sprites(300, size=20, width=0.6, height=0.6), 20)
    assert area.min() > 0.9 * np.pi * 0.1**2


def test_sprites_are_anndata_without_counts_and_reproducible(sprites):
    assert sprites.shape == (500, 256) and sprites.X.dtype == np.float32 and "counts" not in sprites.layers
    np.testing.assert_array_equal(sprites.X, data.sprites(500, size=16, seed=1).X)
    assert (sprites.X != data.sprites(500, size=16, seed=2).X).any()
    b = next(iter(data.loader(sprites, "across", "shape", layer=None, size=64)))
    assert b["x"].shape == (64, 256) and b["across"].shape == (64,) and "log_library" not in b


@pytest.mark.parametrize("wrong", [{"n": 0}, {"size": 2}, {"width": 0.7}, {"height": -0.1}])
def test_impossible_sprites_are_refused(wrong):
    with pytest.raises(Refused, match="sprites need"):
        data.sprites(**wrong)
