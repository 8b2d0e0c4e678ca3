"""One look for every figure: transparent, mid-grey lettering, so that one picture is legible on white and on black."""

import base64
import hashlib
import html
import inspect
import io
import itertools
import json
import textwrap

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

GREY = "#777777"
CYCLE = ["#1f8fc4", "#d9730d", "#2a9d78", "#c0569b", "#8d7bd8", "#b08a00", "#d1495b", "#5b8c3a", "#a0693f", "#4f83a8"]
CELL_TYPES = {  # PBMC, one colour per type throughout the book; related types are neighbours
    "CD14 monocyte": "#d9730d",
    "dendritic": "#b08a00",
    "B": "#8d7bd8",
    "CD34 progenitor": "#d1495b",
    "NK": "#c0569b",
    "CD4 T regulatory": "#2a9d78",
    "CD4 T naive": "#5b8c3a",
    "CD4 T memory": "#1fa0a0",
    "CD8 T cytotoxic": "#1f8fc4",
    "CD8 T naive": "#6f8fd0",
}

LOW, APART = ("precision", "recall", "accuracy on real cells"), ("diversity",)  # where a bad row of a report lies


def style() -> None:
    """Set the book's matplotlib style for this session."""
    mpl.rcParams.update(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "figure.figsize": (5.2, 3.2),
            "figure.dpi": 150,
            "savefig.dpi": 150,
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "text.color": GREY,
            "axes.labelcolor": GREY,
            "axes.edgecolor": GREY,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.titlesize": 9.5,
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "lines.linewidth": 1.6,
            "legend.frameon": False,
            "image.cmap": "viridis",
            "svg.hashsalt": "lab",
        }
    )


def color(label: str) -> str:
    """The colour of a PBMC type throughout the book. ValueError for other labels: to differ, they must be known
    together, by `colors(labels)`.
    """
    if label not in CELL_TYPES:
        raise ValueError(f"{label!r} is no PBMC type with a colour of its own; take plot.colors(labels)[{label!r}]")
    return CELL_TYPES[label]


def colors(labels) -> dict[str, str]:
    """A colour for each label that occurs in `labels` (N,), no two alike up to ten: the book's own for PBMC types, and
    for the others those that are left of the cycle. In the order of their categories, where they have one, else of the
    alphabet.
    """
    levels = list(map(str, getattr(getattr(labels, "cat", labels), "categories", ())))
    order = sorted(
        set(np.asarray(labels).astype(str)),
        key=lambda name: (levels.index(name) if name in levels else len(levels), name.lower()),
    )
    own = {name: CELL_TYPES[name] for name in order if name in CELL_TYPES}
    left = itertools.cycle([c for c in CYCLE if c not in own.values()] or CYCLE)
    return {name: own.get(name) or next(left) for name in order}


def scatter(xy, labels, *, ax=None, size: float = 6, legend: bool = True):
    """Points (N, 2) coloured by label (N,) as `colors` has it, with a legend at the right. Returns the axes."""
    palette, xy, labels = colors(labels), np.asarray(xy), np.asarray(labels).astype(str)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) != len(labels):
        raise ValueError(f"scatter draws points (N, 2) with N labels; got {xy.shape} and {len(labels)} labels")
    ax = ax or plt.subplots(figsize=(5.2, 3.4))[1]
    for label, c in palette.items():
        ax.scatter(*xy[labels == label].T, s=size, color=c, lw=0, alpha=0.8, label=label)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3)
    return ax


def report(tables: dict, *, ax=None):
    """Reports on several samples of one set of real cells (`metrics.sample_report`) by name, in one picture, worse to
    the right: in each row 0 is the ceiling, the bar what real cells span, and 1 the floor, or where the floor passes,
    the width of the bar. What lies outside (-3, 6) is drawn at that end. Returns the axes.
    """
    one = next(iter(tables.values())).drop(index="copies", errors="ignore")
    ax = ax or plt.subplots(figsize=(5.2, 1 + 0.3 * len(one)))[1]
    gap, span = one["floor"] - one["ceiling"], one["high"] - one["low"]
    worse = np.array([-1 if row in LOW or row in APART and gap[row] < 0 else 1 for row in one.index])
    unit = worse * (worse * gap).where(worse * gap > span / 4, span).replace(0, 1)
    ends = np.sort([(one[end] - one["ceiling"]) / unit for end in ("low", "high")], axis=0)
    at = np.arange(len(one))[::-1]
    ax.barh(at, ends[1] - ends[0], left=ends[0], color=GREY, alpha=0.35)
    for (name, table), mark in zip(tables.items(), itertools.cycle("osD^vPX")):
        ax.plot(((table["value"] - one["ceiling"]) / unit)[one.index].clip(-3, 6), at, mark, ms=5, label=name)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.axvline(1, color=GREY, lw=0.8, ls=":")
    ax.set(yticks=at, yticklabels=one.index, xlabel="0: two real samples, 1: the floor")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, handletextpad=0)  # above: marks in a row are data
    return ax


def source(*objects):
    """The source of functions or classes as the package has it, highlighted on the site and in Colab."""
    from IPython.display import Markdown

    shown = (textwrap.dedent(inspect.getsource(o)).rstrip() for o in objects)
    return Markdown("```python\n" + "\n\n".join(shown) + "\n```")


class Animation:
    """A player for a notebook: one frame still, play button, slider. Made by `animate`."""

    def __init__(self, frames: list[bytes], alt: str, still: int = 0):
        self.frames, self.alt, self.still = [base64.b64encode(f).decode() for f in frames], alt, still

    def __repr__(self) -> str:
        return f"Animation of {len(self.frames)} frames: {self.alt}"

    def _repr_html_(self) -> str:
        key, n, alt = (
            "a" + hashlib.sha256(self.alt.encode()).hexdigest()[:8],
            len(self.frames),
            html.escape(self.alt, quote=True),
        )
        return f"""<div class="lab-animation" id="{key}">
<img src="data:image/png;base64,{self.frames[self.still]}" alt="{alt}" style="max-width:100%">
<div><button type="button">Play</button>
<input type="range" min="0" max="{n - 1}" value="{self.still}" style="width:60%" aria-label="frame"></div>
<script>(function () {{
const frames = {json.dumps(self.frames)}, box = document.getElementById("{key}");
const img = box.querySelector("img"), slider = box.querySelector("input"), button = box.querySelector("button");
const show = () => {{ img.src = "data:image/png;base64," + frames[slider.value]; }};
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;  // then a click is one frame
if (calm) button.textContent = "Next";
let timer = null;
const stop = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
slider.addEventListener("input", show);
button.addEventListener("click", () => {{
  if (timer) return stop();
  if (calm) {{ slider.value = (+slider.value + 1) % {n}; return show(); }}
  button.textContent = "Stop";
  if (+slider.value === {n - 1} || +slider.value === {self.still}) slider.value = 0;
  timer = setInterval(() => {{
    slider.value = +slider.value + 1; show(); if (+slider.value === {n - 1}) stop();
  }}, 200);
}});
}})();</script></div>"""


def animate(fig, draw, frames, alt: str, *, still: int = 0) -> Animation:
    """Call draw(frame) for each of at most 40 `frames` and keep a picture of `fig` after each; at most 1.5 MB in all.

    `alt` says in words what the reader should see happen; it is required. Until it plays, picture number `still` is
    shown, the first unless another says more.
    """
    frames = list(frames)
    if not alt or len(alt) < 20:
        raise ValueError("an animation needs an alt text: say in a sentence what moves and where it ends")
    if not 1 <= len(frames) <= 40:
        raise ValueError(f"an animation has 1 to 40 frames, got {len(frames)}: show every n-th step")
    if not -len(frames) <= still < len(frames):
        raise ValueError(f"still={still}, and there are {len(frames)} frames, numbered from 0")
    pictures = []
    for frame in frames:
        draw(frame)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=100)
        pictures.append(buffer.getvalue())
    plt.close(fig)
    if (size := sum(map(len, pictures))) > 1_500_000:
        raise ValueError(
            f"the frames take {size / 1e6:.1f} MB, more than the 1.5 MB a page may carry: fewer or smaller frames"
        )
    return Animation(pictures, alt, still % len(pictures))
