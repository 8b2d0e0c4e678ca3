"""The map of the book: its chapters, their prerequisites and three learning paths, as inline SVG and as text.

`{chapter-map}` draws it twice, for wide and narrow pages (map.css shows one); `{learning-path} drug` lists one path.
A chapter that stands in the book is a link, one that is not written yet is grey: nothing here says which are.
"""

from html import escape

from chapters import CHAPTERS, COLUMNS, PARTS, PATHS
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PITCH, STEP, WIDTH, HEIGHT = 166, 68, 138, 48  # of the wide layout, px at scale 1


def on(*chapters):
    """CSS classes of the paths on which all these chapters lie."""
    return " ".join(name for name in PATHS if all(name[0] in CHAPTERS[n][3] for n in chapters))


def mark(path, x, y):
    """The sign of a path (circle, square, triangle: not by colour alone), centred on (x, y)."""
    d = {
        "expression": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
        "drug": "M-4.5-4.5h9v9h-9z",
        "mathematics": "M0-5.5 6 5H-6z",
    }
    return f'<path class="mark {path}" d="{d[path]}" transform="translate({x:g} {y:g})"/>'


def node(n, x, y, width, height, inside, url):
    """A box with its top left corner at (x, y), a link when `url` says so."""
    title = escape(CHAPTERS[n][1].replace("|", " "))
    box = f'<rect width="{width}" height="{height}" rx="9"/>{inside}'
    marks = "".join(mark(p, width - 12 - 15 * i, 0) for i, p in enumerate(reversed(on(n).split())))
    if url:
        box = f'<a href="{url}" aria-label="Chapter {n}: {title}">{box}</a>'
    state = "written" if url else "planned"
    tip = f"<title>{n}. {title}{'' if url else ' (not written yet)'}</title>"
    return f'<g class="node {state} {on(n)}" transform="translate({x:g} {y:g})">{tip}{box}{marks}</g>'


def svg(name, width, height, edges, boxes):
    """One drawing, arrows under the boxes."""
    tip = (
        f'<marker id="tip-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 .8 7.5 4 0 7.2z"/></marker>'
    )
    lines = "".join(f'<path class="edge {on(a, b)}" d="{d}" marker-end="url(#tip-{name})"/>' for a, b, d in edges)
    label = (
        f'<title id="{name}-title">Map of the book</title><desc id="{name}-desc">{len(CHAPTERS)} chapters; '
        "an arrow leads from a chapter to one that needs it.</desc>"
    )
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" role="group" '
        f'aria-labelledby="{name}-title {name}-desc">{label}<defs>{tip}</defs>{lines}{"".join(boxes)}</svg>'
    )


def wide(urls):
    """Left to right: a chapter stands one column to the right of the last that it needs."""
    rows = max(map(len, COLUMNS))
    place, gaps = {}, []  # chapter -> (column, middle y); per column the heights free to pass
    for c, column in enumerate(COLUMNS):
        step = STEP * rows / (len(column) + (c == 0))
        ys = [12 + step * (i + 0.5) if c else 12 + STEP * rows / 2 for i in range(len(column))]
        place |= {n: (c, y) for n, y in zip(column, ys)}
        gaps.append([ys[0] - step / 2, *(y + step / 2 for y in ys)])
    edges, boxes = [], []
    for b, (_, title, needs, _) in CHAPTERS.items():
        c, y = place[b]
        for a in needs:
            ca, ya = place[a]
            stops = [(2 + ca * PITCH + WIDTH, ya)]
            for k in range(ca + 1, c):  # a long arrow passes between the boxes of the columns that it crosses
                line = ya + (y - ya) * (k - ca) / (c - ca)
                free = min(gaps[k], key=lambda g: abs(g - line))
                stops += [(2 + k * PITCH, free), (2 + k * PITCH + WIDTH, free)]
            above = sum(place[n][1] < ya for n in needs)  # arrowheads stand side by side, in their order
            stops.append((2 + c * PITCH, y + 10 * (above - (len(needs) - 1) / 2)))
            d = f"M{stops[0][0]:g} {stops[0][1]:g}"
            for (x0, y0), (x1, y1) in zip(stops, stops[1:]):
                half = (x1 - x0) / 2
                d += f"C{x0 + half:g} {y0:g} {x1 - half:g} {y1:g} {x1:g} {y1:g}"
            edges.append((a, b, d))
        lines = title.split("|")
        text = "".join(
            f'<text class="name" x="34" y="{29 + 16 * (i - (len(lines) - 1) / 2):g}">{escape(t)}</text>'
            for i, t in enumerate(lines)
        )
        inside = f'<text class="number" x="18" y="29" text-anchor="middle">{b}</text>{text}'
        boxes.append(node(b, 2 + c * PITCH, y - HEIGHT / 2, WIDTH, HEIGHT, inside, urls.get(b)))
    return svg("wide", 4 + 5 * PITCH + WIDTH, 24 + STEP * rows, edges, boxes)


def narrow(urls):
    """Top to bottom in reading order, part by part; arrows run down the left margin."""
    place, boxes, y = {}, [], 0
    for n, (_, title, needs, _) in CHAPTERS.items():
        if n in PARTS:
            y += 30 if n else 20
            boxes.append(f'<text class="part" x="62" y="{y}">{PARTS[n]}</text>')
            y += 16
        after = f'<text class="after" x="44" y="39">after {", ".join(map(str, needs))}</text>' if needs else ""
        inside = (
            f'<text class="number" x="22" y="30" text-anchor="middle">{n}</text>{after}'
            f'<text class="name" x="44" y="{22 if needs else 30}">{escape(title.replace("|", " "))}</text>'
        )
        boxes.append(node(n, 62, y, 286, HEIGHT, inside, urls.get(n)))
        place[n] = y + HEIGHT / 2
        y += HEIGHT + 10
    edges = []
    for b, (_, _, needs, _) in CHAPTERS.items():
        for a in needs:
            reach = 62 - 19 * (b - a) ** 0.5  # a cubic's middle lies at three quarters of its handles
            y0, y1 = place[a] + 9, place[b] - 6
            edges.append((a, b, f"M62 {y0:g}C{reach:.0f} {y0:g} {reach:.0f} {y1:g} 62 {y1:g}"))
    return svg("narrow", 350, y, edges, boxes)


class ChapterMap(SphinxDirective):
    """`{chapter-map}`: both drawings and the switches that leave one path lit."""

    def run(self):
        urls = written(self.env, self.env.docname)
        names = {"all": "All chapters"} | PATHS
        inputs = "".join(f'<input type="radio" name="path" id="path-{k}"{" checked" * (k == "all")}>' for k in names)
        signs = {k: f'<svg viewBox="-8 -8 16 16" aria-hidden="true">{mark(k, 0, 0)}</svg>' for k in PATHS}
        labels = "".join(f'<label for="path-{k}">{signs.get(k, "")}{v}</label>' for k, v in names.items())
        html = (
            f'<nav class="chapter-map" aria-label="Map of the book">{inputs}<div class="paths">{labels}</div>'
            f"{wide(urls)}{narrow(urls)}</nav>"
        )
        return [nodes.raw("", html, format="html")]


class LearningPath(SphinxDirective):
    """`{learning-path} drug`: the chapters of one path in reading order."""

    required_arguments = 1

    def run(self):
        urls, items = written(self.env, self.env.docname), []
        for n, (_, title, _, initials) in CHAPTERS.items():
            if self.arguments[0][0] in initials:
                text = f"{n} {escape(title.replace('|', ' '))}"
                text = f'<a href="{urls[n]}">{text}</a>' if n in urls else f'<span class="planned">{text}</span>'
                items.append(f"<li>{text}</li>")
        return [nodes.raw("", f'<ul class="learning-path">{"".join(items)}</ul>', format="html")]


def written(env, here):
    """Chapter number -> address relative to the page `here`, for the chapters that stand in the book."""
    pages = {n: f"book/{page}" for n, (page, *_) in CHAPTERS.items()}
    return {n: env.app.builder.get_relative_uri(here, page) for n, page in pages.items() if page in env.found_docs}


def redraw(app, env, added, changed, removed):
    """A chapter that comes or goes changes the page that shows the map."""
    return {"book/index"} & env.found_docs if added or removed else set()


def setup(app):
    app.add_directive("chapter-map", ChapterMap)
    app.add_directive("learning-path", LearningPath)
    app.add_css_file("map.css")
    app.connect("env-get-outdated", redraw)
    return {"parallel_read_safe": True}
