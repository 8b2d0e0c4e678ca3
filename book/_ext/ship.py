"""Run again what `lab/shipped` holds: `python book/_ext/ship.py [NAME | --verify]` (`make shipped NAME=...`).

A shipped table is a command with blanks, `python -m lab train … --beta {beta} --seed {seed}`, or a call of a function
that a `page` defines, `row(beta={beta}, seed={seed})`, run once for each combination of the values in `over`; a row is
these values and what run.json, or the dict that the function returned, then says. Of the page run the set-up cell and
those tagged `shipped` that the call needs. With `"weights": true` the weights of its one run are shipped, and the row
stands in the story; a call then gives the dict and the model, `row(*(made := fit(seed={seed}))), made[0]`. A story
begins with `what`, `command` or `page` and `call`, `over`, `keep` and `spread`; `blank` names columns that some rows
lack. One with `"real": true` reads the folder in LAB_DATA, hidden from all others, and is left alone without it; one
with `"foreign": true` always is: packages outside the lock made it, run once by the scripts among its `files`.

It is stale when code that its command loads or its call reaches has changed in more than comments and docstrings.
`--verify` computes all anew, writes nothing, and fails where something is stale or off by more than its `spread`.
"""

import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_model
from uses import code, needed, used_by

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "lab/shipped"
CATALOGUE = ROOT / "lab/data/catalogue"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LOADED = """import sys
from lab.command import main
status = main(sys.argv[1:])
print(*(m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "lab"), sep="\\n")
sys.exit(status)"""


def stories():
    """Name -> story of everything that is shipped and that the lock's packages can run again."""
    return {p.stem: s for p in sorted(SHIPPED.glob("*.json")) if not (s := json.loads(p.read_text())).get("foreign")}


def cells(page, tag="shipped", expression=None):
    """The program that a page's cells of this tag are, as Python; with `expression`, those of them that it needs."""
    from contents import read  # these need what builds pages; the rest of this file does not
    from IPython.core.inputtransformer2 import TransformerManager

    tagged = [c.source for c in read(f"book/{page}.md").cells if tag in c.metadata.get("tags", ())]
    programs = list(map(TransformerManager().transform_cell, tagged))
    return "\n".join(programs if expression is None else needed(programs, expression))


def reached(program):
    """The parts of `lab` that a program uses; what it imports and leaves unused does not count, nor what is shipped."""
    from reach import reach

    return sorted(part for part in reach(used_by(program, unused=False)) if part.file.suffix == ".py")


def digest(story):
    """One digest of what a story's numbers depend on: the cells that its call needs and the parts of `lab` that these
    reach today, or the files that its command loaded; a missing file counts as empty."""
    if "page" in story:
        program = cells(story["page"], expression=next(runs(story))[1][-1])  # the same whatever the blanks hold
        texts = {f"{os.path.relpath(p.file, ROOT)} {p.name}": code(p.content().decode()) for p in reached(program)}
    else:
        program, files = "", {name: ROOT / name for name in story.get("files", ())}
        texts = {name: code(file.read_text()) if file.exists() else "" for name, file in files.items()}
    sha = hashlib.sha256(code(program).encode())
    for name, text in sorted(texts.items()):
        sha.update(f"{name}\0{text}\0".encode())
    return sha.hexdigest()


def stale():
    """The names whose command or call would now run other code."""
    return [name for name, story in stories().items() if digest(story) != story.get("digest")]


def runs(story):
    """(values of the blanks, words of the command, or page and call) for each row of the table."""
    for values in itertools.product(*story["over"].values()):
        blanks = dict(zip(story["over"], values))
        if "page" in story:
            yield blanks, ["--call", story["page"], story["call"].format(**blanks)]
        else:
            yield blanks, story["command"].format(**blanks).removeprefix("python -m lab ").split()


def call(page, expression, folder):
    """Run a page's cells, write what `expression` then is as a command writes its results, and print the files of `lab`
    that the cells reach."""
    program, space = cells(page, expression=expression), {"__name__": "__main__"}
    exec(f"{cells(page, 'remove-cell')}\n{program}", space)
    Path(folder).mkdir()
    if isinstance(results := eval(expression, space), tuple):
        results, model = results
        save_model(model, str(Path(folder, "model.safetensors")))
    Path(folder, "run.json").write_text(json.dumps({"results": results}, default=float))
    print(*{part.file for part in reached(program)}, sep="\n")


def counted(files, words):
    """The files that make a run stale, by name. The catalogue lists all its sets: only the command's own counts."""
    from reach import reach

    there = {f for f in map(Path, files) if ROOT in f.parents and f.suffix == ".py"}
    if "--data" in words:
        own = {part.file for part in reach({("data", words[words.index("--data") + 1])})}
        there -= {f for f in there - own if CATALOGUE in f.parents}
    return {f.relative_to(ROOT).as_posix() for f in there}


def row(words, weights=None, real=False):
    """What run.json says of one run, the files of `lab` that count, and its seconds; its weights are copied there."""
    with tempfile.TemporaryDirectory() as folder:
        line, start = [*words, "--out", f"{folder}/run"], time.monotonic()
        program = [__file__] if words[0] == "--call" else ["-c", LOADED]
        env = {k: v for k, v in os.environ.items() if real or k != "LAB_DATA"} | ONE_THREAD
        done = subprocess.run([sys.executable, *program, *line], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
        results = json.loads(Path(folder, "run", "run.json").read_text())["results"]
        if weights:
            shutil.copy(Path(folder, "run", "model.safetensors"), weights)
        return results, counted(done.stdout.splitlines(), words), time.monotonic() - start


def table(story, weights=None):
    """The whole table, the files and the seconds behind it."""
    rows, files, seconds = [], set(), 0.0
    for blanks, words in runs(story):
        results, loaded, took = row(words, weights, story.get("real", False))
        rows.append(blanks | {column: float(f"{results[name]:.5g}") for column, name in story["keep"].items()})
        files, seconds = files | loaded, seconds + took
        print(" ".join(words), rows[-1], f"{took:.0f} s", flush=True)
    return pd.DataFrame(rows), files, seconds


def differences(story, now, then):
    """Columns that moved by more than the story allows, and by how much."""
    moved = {column: (now[column] - then[column]).abs().max() for column in story["spread"]}
    return {column: by for column, by in moved.items() if by > story["spread"][column]}


def processor():
    """What rounding depends on."""
    kernels, release = torch.backends.cpu.get_cpu_capability(), torch.__version__.split("+")[0]
    return f"{platform.machine()} with {kernels}, one thread, torch {release}"


def before(name, story):
    """The table that is shipped, or the row that the story has of shipped weights."""
    return pd.DataFrame(story["rows"]) if story.get("weights") else pd.read_csv(SHIPPED / f"{name}.csv")


def verify():
    """Compute all anew; exit status."""
    wrong = {name: "stale" for name in stale()}
    there = {name: story for name, story in stories().items() if "LAB_DATA" in os.environ or not story.get("real")}
    for name, story in there.items():
        if moved := differences(story, table(story)[0], before(name, story)):
            wrong[name] = f"differs by {moved}"
    print(*(f"{name}: {what}" for name, what in wrong.items()), sep="\n")
    return bool(wrong)


def ship(name):
    """Run a story's command, and write what it gives and how."""
    story = stories()[name]
    if story.get("real") and "LAB_DATA" not in os.environ:
        raise SystemExit(f"{name} is of real cells: name their folder in LAB_DATA, and run ship.py by itself")
    now, files, seconds = table(story, SHIPPED / f"{name}.safetensors" if story.get("weights") else None)
    made = {"seconds": round(seconds), "processor": processor(), "files": sorted(files)}
    made["digest"] = digest(story | made)
    if story.get("weights"):
        made["rows"] = now.to_dict("records")
    else:
        now.to_csv(SHIPPED / f"{name}.csv", index=False)
    (SHIPPED / f"{name}.json").write_text(json.dumps(story | made, indent=1) + "\n")


def main(asked):
    """Run what is asked, or what is stale; exit status."""
    if asked == ["--verify"]:
        return verify()
    if asked[:1] == ["--call"]:
        return call(asked[1], asked[2], folder=asked[4])
    for name in asked or stale():
        ship(name)


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word]))
