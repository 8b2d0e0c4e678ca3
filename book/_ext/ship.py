"""Run again what `lab/shipped` holds: `python book/_ext/ship.py [NAME | --verify]` (`make shipped NAME=...`).

A shipped table is a command with blanks, `python -m lab train … --beta {beta} --seed {seed}`, run once for each
combination of the values in `over`; a row is these values and what run.json then says. Where the story has `"weights":
true`, its one run's weights are shipped, and the row stands in the story. To begin one, write its `.json` with `what`,
`command`, `over`, `keep` and `spread`.

It is stale when a file of `lab` that its command loads has changed in more than comments and docstrings. `--verify`
computes all anew, writes nothing, and fails where something is stale or differs by more than its `spread`.
"""

import ast
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
    """Name -> story of everything that is shipped."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(SHIPPED.glob("*.json"))}


def code(path):
    """A file of Python as it runs: without comments, docstrings and layout."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def digest(files):
    """One digest of these files of the repository, by name; a missing one counts as empty."""
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0{code(ROOT / name) if (ROOT / name).exists() else ''}\0".encode())
    return sha.hexdigest()


def stale():
    """The names whose command would now run other code."""
    return [name for name, story in stories().items() if digest(story.get("files", ())) != story.get("digest")]


def runs(story):
    """(values of the blanks, words of the command) for each row of the table."""
    for values in itertools.product(*story["over"].values()):
        blanks = dict(zip(story["over"], values))
        yield blanks, story["command"].format(**blanks).removeprefix("python -m lab ").split()


def counted(files, words):
    """The files that make a run stale, by name. The catalogue lists all its sets: only the command's own counts."""
    from reach import reach  # needs what builds pages; the rest of this file does not

    own = {part.file for part in reach({("data", words[words.index("--data") + 1])})}
    there = (f for f in map(Path, files) if ROOT in f.parents)
    return {f.relative_to(ROOT).as_posix() for f in there if CATALOGUE not in f.parents or f in own}


def row(words, weights=None):
    """What run.json says of one run, the files of `lab` that count, and its seconds; its weights are copied there."""
    with tempfile.TemporaryDirectory() as folder:
        line, start = [*words, "--out", f"{folder}/run"], time.monotonic()
        env = {k: v for k, v in os.environ.items() if k != "LAB_DATA"} | ONE_THREAD
        done = subprocess.run([sys.executable, "-c", LOADED, *line], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
        results = json.loads(Path(folder, "run", "run.json").read_text())["results"]
        if weights:
            shutil.copy(Path(folder, "run", "model.safetensors"), weights)
        files = [line for line in done.stdout.splitlines() if line.endswith(".py")]
        return results, counted(files, words), time.monotonic() - start


def table(story, weights=None):
    """The whole table, the files and the seconds behind it."""
    rows, files, seconds = [], set(), 0.0
    for blanks, words in runs(story):
        results, loaded, took = row(words, weights)
        rows.append(blanks | {column: round(results[name], 2) for column, name in story["keep"].items()})
        files, seconds = files | loaded, seconds + took
        print(" ".join(words), rows[-1], f"{took:.0f} s", flush=True)
    return pd.DataFrame(rows), files, seconds


def differences(story, now, then):
    """Columns that moved by more than the story allows, and by how much."""
    moved = {column: (now[column] - then[column]).abs().max() for column in story["spread"]}
    return {column: by for column, by in moved.items() if by > story["spread"][column]}


def processor():
    """What rounding depends on."""
    import torch

    kernels, release = torch.backends.cpu.get_cpu_capability(), torch.__version__.split("+")[0]
    return f"{platform.machine()} with {kernels}, one thread, torch {release}"


def before(name, story):
    """The table that is shipped, or the row that the story has of shipped weights."""
    return pd.DataFrame(story["rows"]) if story.get("weights") else pd.read_csv(SHIPPED / f"{name}.csv")


def verify():
    """Compute all anew; exit status."""
    wrong = {name: "stale" for name in stale()}
    for name, story in stories().items():
        if moved := differences(story, table(story)[0], before(name, story)):
            wrong[name] = f"differs by {moved}"
    print(*(f"{name}: {what}" for name, what in wrong.items()), sep="\n")
    return bool(wrong)


def ship(name):
    """Run a story's command, and write what it gives and how."""
    story = stories()[name]
    now, files, seconds = table(story, SHIPPED / f"{name}.safetensors" if story.get("weights") else None)
    made = {"seconds": round(seconds), "processor": processor(), "files": sorted(files), "digest": digest(files)}
    if story.get("weights"):
        made["rows"] = now.to_dict("records")
    else:
        now.to_csv(SHIPPED / f"{name}.csv", index=False)
    (SHIPPED / f"{name}.json").write_text(json.dumps(story | made, indent=1) + "\n")


def main(asked):
    """Run what is asked, or what is stale; exit status."""
    if asked == ["--verify"]:
        return verify()
    for name in asked or stale():
        ship(name)


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word]))
