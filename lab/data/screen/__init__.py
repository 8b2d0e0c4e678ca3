"""The machine behind `perturbseq`: genes, what perturbations do, and the law of a cell's counts."""

from lab.errors import Refused

from .perturbations import FOLD

RANGES = {  # knob: from, to
    "effect": (0, 10),
    "systematic": (0, 1),
    "epistasis": (0, 10),
    "cis": (0, 1),
    "escape": (0, 1),
    "fitness": (0, 10),
    "depth_loss": (0, 10),
    "arrest": (0, 10),
    "control": (0.01, 0.99),
    "depth_std": (0, 3),
    "spread": (0, 5),
    "state": (0, 3),
    "cycle": (0, 3),
    "batch_std": (0, 3),
    "confounding": (0, 1),
    "zero_inflation": (0, 0.99),
    "outside": (0, 1),
    "depth": (1, 1e7),
    "n_modules": (1, 1000),
    "n_guides": (1, 100),
    "n_batches": (1, 1000),
}


def check(knobs: dict, presets: dict) -> None:
    """Refuse a knob out of its range, a preset or a screen that is not there, in one sentence."""
    for name, choices in (("preset", presets), ("screen", FOLD)):
        if knobs[name] not in choices:
            raise Refused(f"{name}={knobs[name]!r} is not known; it is one of {', '.join(choices)}")
    for name, (low, high) in RANGES.items():
        if knobs[name] is not None and not low <= knobs[name] <= high:
            raise Refused(f"{name}={knobs[name]}: it must lie between {low} and {high}")
    if len(knobs["mix"]) != 3 or min(knobs["mix"]) < 0 or not sum(knobs["mix"]) > 0:
        raise Refused(f"mix={knobs['mix']}: it is the shares, from 0 up, of no, of weak and of strong effects")
    a, b, scatter = knobs["dispersion"]
    if not (a > 0 and scatter >= 0):
        raise Refused(f"dispersion={knobs['dispersion']}: (a, b, s) of a mean^b exp(s N(0, 1)), with a > 0 and s >= 0")
    columns = {"expression": {"mean"}, "annotation": {"chromosome", "start"}, "gene_sets": set()}
    for name, table in ((name, knobs[name]) for name in columns if knobs[name] is not None):
        if missing := columns[name] - {"chromosome" if c == "chr" else c for c in table}:
            raise Refused(f"{name} has no column {' nor '.join(map(repr, sorted(missing)))}; add it, a row a gene")
        if name != "annotation" and not table.index.is_unique:
            raise Refused(f"{name} has {table.index[table.index.duplicated()][0]!r} twice; keep one row a gene")
    if knobs["expression"] is not None and not (knobs["expression"].filter(["mean", "phi"]) > 0).all(axis=None):
        raise Refused("expression has means or dispersions that are not above 0; drop genes that were never counted")
