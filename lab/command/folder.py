"""The folder of one run: begun, continued after any interruption, finished, and opened again.

Every file appears whole or not at all, `run.json` last: a run is finished when it says what results there are.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import pandas as pd
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lab.errors import Refused

from .recipes import Known, Recipe, found

SHARED = ("model.safetensors", "genes.txt", "depths.csv", "metrics.csv", "run.json")  # what every finished run leaves
NO_RECORD = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError)


def free(out: Path) -> bool:
    """Whether `out` is an empty folder, or can be made one; `Refused` where no folder can be."""
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file; --out is a folder, name another")
    if not out.parent.is_dir():
        raise Refused(f"there is no folder {out.parent} in which to make {out.name}; create it first")
    return not out.is_dir() or not any(out.iterdir())


def begun(out: Path) -> dict | None:
    """What `run.json` says of the run in `out` that has a checkpoint; None where there is none yet.

    Raises `Refused` for a place where no run can be.
    """
    if free(out):
        return None
    try:
        record = json.loads((out / "run.json").read_text("utf-8"))
        record["arguments"], record["cells"]["sha256"]
    except NO_RECORD:
        raise Refused(f"{out} is not empty and holds no run of this command; give a new folder") from None
    return record if any((out / "checkpoint").glob("step-*")) else None


def same(out: Path, record: dict, **given) -> None:
    """Raise `Refused` unless the run in `out` was begun with these arguments."""
    for name, value in given.items():
        if (before := record["arguments"].get(name)) != value:
            raise Refused(f"{out} holds a run with {name} = {before}, not {value}; give the same, or another --out")


def finished(out: Path, record: dict) -> bool:
    """Whether the run in `out` came to its end and all its files are there."""
    return "results" in record and all((out / name).is_file() for name in (*SHARED, *record.get("files", [])))


@contextmanager
def begin(out: Path, record: dict | None) -> Iterator[None]:
    """Say in `run.json` what begins here (None: it was said). What fails before its first checkpoint leaves nothing."""
    new = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        if record is not None and first():
            write(out / "run.json", lambda path: path.write_text(json.dumps(record, indent=1), "utf-8"))
        yield
    except BaseException:
        if out.is_dir() and not any((out / "checkpoint").glob("step-*")):
            shutil.rmtree(out / "checkpoint", ignore_errors=True)
            (out / "run.json").unlink(missing_ok=True)
            if new:
                shutil.rmtree(out, ignore_errors=True)
        raise


def finish(out: Path, record: dict, model: nn.Module, history: pd.DataFrame, cells, results: Callable) -> None:
    """Write what every run leaves and what its recipe's `results(model, cells)` adds, `run.json` last."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        report, files = results(model, cells)
    of_run = {"steps": len(history), "processes": PartialState().num_processes, "device": str(device)}
    record |= {"results": of_run | report, "files": list(files)}
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write(out / "model.safetensors", lambda path: path.write_bytes(save(weights)))
    genes = "".join(f"{name}\n" for name in cells.adata.var_names)
    write(out / "genes.txt", lambda path: path.write_text(genes, "utf-8"))
    write(out / "depths.csv", lambda path: cells.depths().to_csv(path, index=False))
    write(out / "metrics.csv", history.to_csv)
    for name, put in files.items():
        write(out / name, put)
    write(out / "run.json", lambda path: path.write_text(json.dumps(record, indent=1), "utf-8"))
    say(f"{out}: {summary(record)}")


def reopen(run: str | Path) -> tuple[nn.Module, dict]:
    """The trained model of a finished run, in evaluation mode and on the CPU, and its record: what run.json says, with
    the names of its `genes` in the order of the model's inputs.

    Raises `Refused`: no run, one that has not finished, or one that is damaged.
    """
    run = Path(run)
    try:
        record = json.loads((run / "run.json").read_text("utf-8"))
        record["arguments"]["model"], record["conditions"]
    except NO_RECORD:
        raise Refused(f"{run} is no folder of a run; name one that `python -m lab train` wrote") from None
    if not finished(run, record):
        raise Refused(f"the run in {run} is not finished; the same train command again takes it to its end")
    recipe = recipe_of(record)
    record["genes"] = (run / "genes.txt").read_text("utf-8").split("\n")[:-1]
    with torch.random.fork_rng([]):  # initial weights are drawn, and replaced
        model = recipe.build(Known(record["genes"], record["conditions"]), record["arguments"])
    try:
        model.load_state_dict(load_file(run / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise Refused(f"{run / 'model.safetensors'} is damaged, or another model's; train again") from error
    return model.eval(), record


def recipe_of(record: dict) -> Recipe:
    """The recipe that a record's run was trained by."""
    if (recipe := found().get(record["arguments"]["model"])) is None:
        model, known = record["arguments"]["model"], ", ".join(found())
        raise Refused(
            f"the run is of a model {model!r}, and this version of lab has {known}; use that which trained it"
        )
    return recipe


def kind(record: dict) -> str:
    """What a record's run holds, with its article: a vae, an ebm."""
    name = record["arguments"]["model"]
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def write(path: Path, put: Callable[[Path], object]) -> None:
    """Write beside the file, then rename: a reader finds the old file or the whole new one."""
    part = path.with_name(f"writing-{path.name}")
    try:
        with ad.settings.override(allow_write_nullable_strings=True):  # what was read so is written so
            put(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def summary(record: dict) -> str:
    """The results in one line."""
    short = lambda v: f"{v:.{1 if abs(v) >= 10 else 2}f}" if isinstance(v, float) else v
    return ", ".join(f"{name} {short(value)}" for name, value in record["results"].items())


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print, once among several processes."""
    if first():
        print(text, flush=True)
