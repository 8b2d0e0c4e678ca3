"""What lets a run stop anywhere and go on to the same bit: the place in the data, and checkpoints of all else."""

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, load_model, save_file, save_model
from torch.utils.data import DataLoader

from lab.nets import Minibatch


@functools.cache
def accelerator() -> Accelerator:
    """This process's Accelerator: its device, its precision, and the other processes."""
    several = "LOCAL_RANK" in os.environ  # torchrun's; on CPU, accelerate joins processes only if cpu=True
    return Accelerator(cpu=several and not (torch.cuda.is_available() or torch.xpu.is_available()))


class Place:
    """Minibatches for ever, and how far they were read: epoch, position in it, and what drew its order."""

    def __init__(self, batches: Iterable[Minibatch]):
        if accelerator().num_processes > 1 and not isinstance(batches, DataLoader):
            raise ValueError(
                f"{accelerator().num_processes} processes would all read the same cells from a "
                f"{type(batches).__name__}; pass a DataLoader, which is split among them"
            )
        self.batches, self.loader = batches, isinstance(batches, DataLoader)
        if self.loader:
            self.batches = prepare_data_loader(
                batches, accelerator().device, split_batches=True, put_on_device=True, rng_types=["generator"]
            )
        self.epoch = self.position = 0
        self.order = []  # states of the generators that drew this epoch's order

    def __len__(self) -> int:
        """Minibatches per epoch, 0 where nobody knows."""
        return len(self.batches) if hasattr(self.batches, "__len__") else 0

    def minibatches(self) -> Iterator[Minibatch]:
        """From here on. A resumed epoch draws its order again, then skips what was seen."""
        generators = [getattr(self.batches, name, None) for name in ("generator", "synchronized_generator")]
        generators = [torch.default_generator] + [generator for generator in generators if generator is not None]
        while True:
            now, rest = torch.get_rng_state(), self.batches
            if self.loader and hasattr(rest, "set_epoch"):
                rest.set_epoch(self.epoch)
            if self.position:
                for generator, state in zip(generators, self.order, strict=True):
                    generator.set_state(state)
                rest = skip_first_batches(rest, self.position) if self.loader else islice(rest, self.position, None)
            else:
                self.order = [generator.get_state() for generator in generators]
            b = next(rest := iter(rest), None)
            if self.position:
                torch.set_rng_state(now)
            elif b is None:
                raise ValueError(
                    "the loader yielded no minibatch: it is empty, or an iterator already spent; "
                    "pass a list or a DataLoader"
                )
            while b is not None:
                self.position += 1
                yield b
                b = next(rest, None)
            self.epoch, self.position = self.epoch + 1, 0


def save(run, folder: Path, rows: list[dict], best: dict | None, watch: dict) -> None:
    """Write the `Run` into a temporary folder, rename it, then drop what it replaces: at every instant one is whole."""
    device, main = accelerator().device, accelerator().is_main_process
    part, whole = folder / f"writing-{run.step:09d}", folder / f"step-{run.step:09d}"
    if main:
        for old in folder.glob("writing-*"):
            shutil.rmtree(old)
        part.mkdir()
    accelerator().wait_for_everyone()
    random = {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "order": run.place.order,
    }
    _save(random, part / f"random-{accelerator().process_index}.pt")
    if main:
        save_model(run.model, str(part / "model.safetensors"))
        if best is not None:
            save_file(best, part / "best.safetensors")
        where = {"step": run.step, "epoch": run.place.epoch, "position": run.place.position}
        told = {"rows": rows, "watch": watch, "given": run.given()}
        _save(where | told | {"optimizer": run.optimizer.state_dict()}, part / "state.pt")
    accelerator().wait_for_everyone()
    if main:
        for file in part.iterdir():
            with file.open() as f:
                os.fsync(f.fileno())  # on the disk before the name is
        part.rename(whole)
        for old in set(folder.glob("step-*")) - {whole}:
            shutil.rmtree(old)
    accelerator().wait_for_everyone()


def load(run, folder: Path) -> tuple[list[dict], dict | None, dict] | None:
    """Set the `Run` to the newest checkpoint of `folder` and return its rows, best weights and watch; None where there
    is none. Nothing is unpickled. Raises ValueError: damaged, or another run's."""
    if not (newest := max(folder.glob("step-*"), default=None)):
        return None
    read = functools.partial(torch.load, weights_only=True, map_location="cpu")
    state = _intact(read, newest / "state.pt")
    for name, value in run.given().items():
        if (before := state["given"].get(name, value)) != value:
            raise ValueError(
                f"{newest} was written with {name} = {before}, not {value}; give the same, or another folder"
            )
    _intact(load_file, newest / "model.safetensors")
    try:
        load_model(run.model, newest / "model.safetensors")
    except RuntimeError as error:
        raise ValueError(f"{newest} holds the weights of another model; give that, or another folder") from error
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.place.epoch, run.place.position = state["step"], state["epoch"], state["position"]
    random = _intact(read, newest / f"random-{accelerator().process_index}.pt")
    torch.set_rng_state(random["cpu"])
    if random["cuda"] is not None:
        torch.cuda.set_rng_state(random["cuda"], accelerator().device)
    run.place.order = random["order"]
    best = newest / "best.safetensors"
    return state["rows"], _intact(load_file, best) if best.exists() else None, state["watch"]


def _save(value, path: Path) -> None:
    with path.open("wb") as file:  # Python's own says that a disk is full; torch's does not
        torch.save(value, file)


def _intact(read: Callable, path: Path):
    try:
        return read(path)
    except Exception as error:  # torch, zip, pickle and safetensors each have their own
        raise ValueError(f"{path} is damaged and cannot be read; delete {path.parents[1]} and train again") from error
