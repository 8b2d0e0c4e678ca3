"""Figures legible on white and on black, animations that fit on a page."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lab import data, plot

matplotlib.use("agg")


def luminance(rgb):
    rgb = np.array(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", [plot.GREY, *plot.CYCLE, *plot.CELL_TYPES.values()])
def test_every_colour_stands_out_on_white_and_on_black(colour):
    """WCAG 2.1 asks 3 : 1 of graphics."""
    light = luminance(matplotlib.colors.to_rgb(colour))
    dark_page = luminance(matplotlib.colors.to_rgb("#121212"))
    assert 1.05 / (light + 0.05) >= 2.9 and (light + 0.05) / (dark_page + 0.05) >= 3


def test_cell_type_colours_are_distinct_and_fixed():
    assert set(data.pbmc().obs.cell_type) == set(plot.CELL_TYPES)
    assert len(set(plot.CELL_TYPES.values())) == len(plot.CELL_TYPES)
    assert plot.color("B") == plot.CELL_TYPES["B"] and plot.color("neuron") == plot.color("neuron")


def test_an_animation_carries_its_alt_text_and_no_outside_address():
    fig, ax = plt.subplots(figsize=(2, 1))
    (line,) = ax.plot([0, 1], [0, 0])
    made = [
        plot.animate(
            fig, lambda i: line.set_ydata([0, i]), range(3), "A line tilts upwards from flat to steep."
        )._repr_html_()
        for _ in range(2)
    ]
    assert made[0] == made[1] and 'alt="A line tilts' in made[0] and "http" not in made[0]


def test_an_animation_without_words_or_too_long_is_refused():
    fig = plt.figure()
    with pytest.raises(ValueError, match="alt text"):
        plot.animate(fig, lambda i: None, range(3), "")
    with pytest.raises(ValueError, match="40 frames"):
        plot.animate(fig, lambda i: None, range(41), "Something moves for far too long to watch.")


def test_source_shows_what_the_package_has():
    assert "def color(label" in plot.source(plot.color).data


def test_scatter_refuses_points_that_are_not_in_the_plane():
    with pytest.raises(ValueError, match="N, 2"):
        plot.scatter(np.ones((3, 3)), ["a"] * 3)
