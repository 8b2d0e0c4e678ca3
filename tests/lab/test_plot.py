"""Figures legible on white and on black, animations that fit on a page."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lab import data, plot
from lab.metrics.report import BAD

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
    assert plot.color("B") == plot.CELL_TYPES["B"]
    with pytest.raises(ValueError, match=r"take plot.colors\(labels\)\['neuron'\]"):
        plot.color("neuron")
    assert plot.colors(["neuron", "B"])["neuron"] == plot.CYCLE[0]


@pytest.mark.parametrize(
    "labels",
    [
        list("0123456789"),
        range(10),
        [f"tissue {i}" for i in range(10)],
        ["train", "test", "CD8T", "NK"],
        [*list(plot.CELL_TYPES)[:5], "a", "b", "c", "d", "e"],
        [True, False],
    ],
)
def test_up_to_ten_labels_have_ten_colours(labels):
    ax = plot.scatter(np.zeros((len(labels), 2)), labels)
    drawn = {c.get_label(): matplotlib.colors.to_hex(c.get_facecolor()[0]) for c in ax.collections}
    assert len(set(drawn.values())) == len(drawn) == len(labels) and drawn == plot.colors(labels)
    plt.close(ax.figure)


def test_labels_take_colours_in_the_order_of_their_categories():
    ages = pd.Categorical(["young", "old", "young"], ["young", "never", "old"])
    for labels in (ages, pd.Series(ages)):
        assert plot.colors(labels) == {"young": plot.CYCLE[0], "old": plot.CYCLE[1]}
    assert list(plot.colors(list(ages))) == ["old", "young"]
    assert list(plot.colors(pd.Series(pd.Categorical(["b", None, "a"], ["b", "a"])))) == ["b", "a", "nan"]
    assert list(plot.colors([chr(97 + i) for i in range(12)]).values()) == plot.CYCLE + plot.CYCLE[:2]


def test_a_pbmc_type_has_its_colour_in_any_company():
    assert plot.colors(["NK", "mine", "B"]) == {"B": plot.color("B"), "mine": plot.CYCLE[0], "NK": plot.color("NK")}


def test_an_animation_carries_its_alt_text_and_no_outside_address():
    def tilted():  # a figure each: a second layout of one figure moves its axes by a fraction of a pixel
        fig, ax = plt.subplots(figsize=(2, 1))
        (line,) = ax.plot([0, 1], [0, 0])
        alt = "A line tilts upwards from flat to steep."
        return plot.animate(fig, lambda i: line.set_ydata([0, i]), range(3), alt)._repr_html_()

    made = [tilted(), tilted()]
    assert made[0] == made[1] and 'alt="A line tilts' in made[0] and "http" not in made[0]


@pytest.mark.parametrize("still", [0, 2, -1])
def test_an_animation_stands_still_on_the_frame_that_was_asked_for(still):
    fig, ax = plt.subplots(figsize=(2, 1))
    (line,) = ax.plot([0, 1], [0, 0])
    made = plot.animate(fig, lambda i: line.set_ydata([0, i]), range(3), "A line tilts upwards.", still=still)
    page = made._repr_html_()
    assert page.index(made.frames[still]) < page.index("<script>") and len(set(made.frames)) == 3
    assert f'value="{still % 3}"' in page


def test_an_animation_without_words_or_too_long_is_refused():
    fig = plt.figure()
    with pytest.raises(ValueError, match="alt text"):
        plot.animate(fig, lambda i: None, range(3), "")
    with pytest.raises(ValueError, match="40 frames"):
        plot.animate(fig, lambda i: None, range(41), "Something moves for far too long to watch.")
    with pytest.raises(ValueError, match="still=3, and there are 3 frames"):
        plot.animate(fig, lambda i: None, range(3), "Something moves from left to right.", still=3)


def test_source_shows_what_the_package_has():
    assert "def color(label" in plot.source(plot.color).data


def test_scatter_refuses_points_that_are_not_in_the_plane():
    with pytest.raises(ValueError, match="N, 2"):
        plot.scatter(np.ones((3, 3)), ["a"] * 3)


def test_the_rows_that_are_bad_below_are_those_of_the_report():
    assert {row for row, way in BAD.items() if way == "low"} == set(plot.LOW)
    assert {row for row, way in BAD.items() if way == "apart"} == set(plot.APART)


def test_a_report_is_drawn_worse_to_the_right_with_real_cells_at_0_and_the_floor_at_1():
    rows = {  # value, ceiling, low, high, floor: where the value must stand
        "MMD": (0.4, 0.0, -0.1, 0.1, 0.8, 0.5),
        "recall": (0.7, 0.9, 0.85, 0.95, 0.5, 0.5),
        "accuracy on real cells": (0.3, 0.6, 0.5, 0.7, 0.62, 1.5),  # a floor that passes: by the width of the bar
        "diversity": (1.2, 1.0, 0.95, 1.05, 0.8, -1.0),  # too wide, where the floor is too narrow
        "copies": (20, 0, 0, 0, 0, None),
    }
    columns = ["value", "ceiling", "low", "high", "floor", "at"]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    ax = plot.report({"a model": table, "none": table.assign(value=table.ceiling)})
    first, second = ax.lines[:2]
    np.testing.assert_allclose(first.get_xdata(), table["at"].dropna())
    np.testing.assert_allclose(second.get_xdata(), 0)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(rows)[:-1]
    bar = ax.patches[2]
    np.testing.assert_allclose([bar.get_x(), bar.get_width()], [-0.5, 1.0])
