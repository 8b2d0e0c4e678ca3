"""Run again what `lab/shipped` holds: `python book/_ext/ship.py [NAME | --verify]` (`make shipped NAME=...`).

A shipped table is a command with blanks, `python -m lab train … --beta {beta} --seed {seed}`, run once for each
combination of the values in `over`; a row is these values and what run.json then says. It is stale when a file of `lab`
that its command loads has changed in more than comments and docstrings. `--verify` computes all anew, writes nothing,
and fails where something is stale or differs from what is shipped by more than its `spread`.
"""

import ast
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "lab/shipped"
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
    return [name for name, story in stories().items() if digest(story["files"]) != story["digest"]]


def runs(story):
    """(values of the blanks, words of the command) for each row of the table."""
    for values in itertools.product(*story["over"].values()):
        blanks = dict(zip(story["over"], values))
        yield blanks, story["command"].format(**blanks).removeprefix("python -m lab ").split()


def row(words):
    """What run.json says of one run, the files of `lab` that it loaded, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        line, start = [*words, "--out", f"{folder}/run"], time.monotonic()
        env = {k: v for k, v in os.environ.items() if k != "LAB_DATA"} | ONE_THREAD
        done = subprocess.run([sys.executable, "-c", LOADED, *line], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
        results = json.loads(Path(folder, "run", "run.json").read_text())["results"]
        files = {Path(line) for line in done.stdout.splitlines() if line.endswith(".py")}
        return results, {str(f.relative_to(ROOT)) for f in files if ROOT in f.parents}, time.monotonic() - start


def table(story):
    """The whole table, the files and the seconds behind it."""
    rows, files, seconds = [], set(), 0.0
    for blanks, words in runs(story):
        results, loaded, took = row(words)
        rows.append(blanks | {column: round(results[name], 2) for column, name in story["keep"].items()})
        files, seconds = files | loaded, seconds + took
        print(" ".join(words), rows[-1], f"{took:.0f} s", flush=True)
    return pd.DataFrame(rows), sorted(files), seconds


def differences(story, now, then):
    """Columns that moved by more than the story allows, and by how much."""
    moved = {column: (now[column] - then[column]).abs().max() for column in story["spread"]}
    return {column: by for column, by in moved.items() if by > story["spread"][column]}


def main(asked):
    """Run what is asked, or what is stale; exit status."""
    wrong = {name: "stale" for name in stale()} if asked == ["--verify"] else {}
    for name in stories() if asked == ["--verify"] else asked or stale():
        story = stories()[name]
        now, files, seconds = table(story)
        if asked == ["--verify"]:
            if moved := differences(story, now, pd.read_csv(SHIPPED / f"{name}.csv")):
                wrong[name] = f"differs by {moved}"
            continue
        now.to_csv(SHIPPED / f"{name}.csv", index=False)
        made = {"seconds": round(seconds), "processor": f"{platform.machine()}, one thread", "files": files}
        made |= {"digest": digest(files)}
        (SHIPPED / f"{name}.json").write_text(json.dumps(story | made, indent=1) + "\n")
    print(*(f"{name}: {what}" for name, what in wrong.items()), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word]))
