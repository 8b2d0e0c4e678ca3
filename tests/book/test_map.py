"""The map of the book says what is true of the book: its chapters, what each needs, and paths that can be walked."""

import re
import xml.etree.ElementTree as ET

import pytest
from chapter_map import narrow, wide
from chapters import CHAPTERS, COLUMNS, PATHS
from contents import ROOT


def boxes(svg):
    """(x, y, width, height) of every node of a drawing."""
    found = []
    for g in ET.fromstring(svg).iter("g"):
        x, y = map(float, re.findall(r"[-\d.]+", g.get("transform")))
        rect = next(g.iter("rect"))
        found.append((x, y, float(rect.get("width")), float(rect.get("height"))))
    return found


def test_chapters_are_named_by_their_numbers():
    assert list(CHAPTERS) == list(range(len(CHAPTERS)))
    assert all(re.fullmatch(rf"[a-z]+/{n:02d}-[a-z0-9-]+", page) for n, (page, *_) in CHAPTERS.items())


def test_every_chapter_on_disk_is_on_the_map():
    on_disk = {str(p.relative_to(ROOT / "book").with_suffix("")) for p in (ROOT / "book").glob("*/[0-9][0-9]-*.md")}
    assert on_disk <= {page for page, *_ in CHAPTERS.values()}


def test_a_chapter_needs_only_chapters_before_it():
    assert all(a < b for b, (_, _, needs, _) in CHAPTERS.items() for a in needs)


def test_no_arrow_repeats_what_other_arrows_already_say():
    def before(n):
        return set(CHAPTERS[n][2]).union(*map(before, CHAPTERS[n][2]))

    for b, (_, _, needs, _) in CHAPTERS.items():
        assert not set(needs) & set().union(*map(before, needs)), b


@pytest.mark.parametrize("path", PATHS)
def test_a_path_holds_all_that_its_chapters_need(path):
    members = {n for n, (*_, initials) in CHAPTERS.items() if path[0] in initials}
    assert len(members) > 10 and all(set(CHAPTERS[n][2]) <= members for n in members)


def test_on_the_wide_map_every_arrow_points_right():
    column = {n: c for c, members in enumerate(COLUMNS) for n in members}
    assert sorted(column) == list(CHAPTERS)
    assert all(column[a] < column[b] for b, (_, _, needs, _) in CHAPTERS.items() for a in needs)


@pytest.mark.parametrize("draw", [wide, narrow])
def test_boxes_lie_inside_the_drawing_and_apart_from_one_another(draw):
    svg = draw({})
    _, _, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    found = boxes(svg)
    assert len(found) == len(CHAPTERS)
    for i, (x, y, w, h) in enumerate(found):
        assert 0 <= x and 0 <= y - 6 and x + w <= width and y + h <= height  # 6: the signs on the upper edge
        assert all(x + w <= u or u + p <= x or y + h <= v or v + q <= y for u, v, p, q in found[:i])


@pytest.mark.parametrize("draw", [wide, narrow])
def test_exactly_the_written_chapters_are_links(draw):
    root = ET.fromstring(draw({0: "start/a.html", 7: "diffusion/b.html"}))
    assert [a.get("href") for a in root.iter("a")] == ["start/a.html", "diffusion/b.html"]
    assert sum("planned" in g.get("class").split() for g in root.iter("g")) == len(CHAPTERS) - 2


@pytest.mark.parametrize("draw", [wide, narrow])
def test_every_prerequisite_has_its_arrow(draw):
    edges = [p for p in ET.fromstring(draw({})).iter("path") if "edge" in (p.get("class") or "").split()]
    assert len(edges) == sum(len(needs) for _, _, needs, _ in CHAPTERS.values())


@pytest.mark.parametrize("n", [n for n, (page, *_) in CHAPTERS.items() if (ROOT / f"book/{page}.md").exists()])
def test_a_written_chapter_links_to_what_the_map_says_it_needs(n):
    page, _, needs, _ = CHAPTERS[n]
    text = (ROOT / f"book/{page}.md").read_text(encoding="utf-8")
    assert all(CHAPTERS[a][0].split("/")[1] in text for a in needs if (ROOT / f"book/{CHAPTERS[a][0]}.md").exists())
