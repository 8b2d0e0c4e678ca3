"""One training loop for every chapter, on one CPU or over many machines.

`steps` is the loop: it takes an optimizer step, yields what the loss reported, and the body of the caller's `for` is
the callback. `fit` runs it to the end with a progress bar, validation and checkpoints. Underneath is one Accelerator
per process, so the same lines run under `torchrun` and `accelerate launch`.
"""

import functools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import send_to_device
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

Batch = dict[str, Tensor]
Loss = Callable[[Batch], dict[str, Tensor]]


def steps(
    model: nn.Module, loss: Loss, batches: Iterable[Batch], *, n: int, lr: float = 1e-3, clip: float | None = None
) -> Iterator[dict[str, float]]:
    """Take `n` AdamW steps on `loss(b)["loss"]`; after each, yield every entry of `loss(b)` as a float, the mean over
    processes.

    `batches` is run through again and again: a list, or a DataLoader whose `batch_size` is the global one (each of P
    processes gets a P-th of every minibatch). Everything the loss trains is inside `model`, which is in training mode
    within a step and in evaluation mode in the caller's loop body. `clip` bounds the norm of the gradient. Two
    networks are two generators advanced in turn.
    Raises ValueError for a loader that is empty or spent or, among several processes, not a DataLoader;
    FloatingPointError, before the weights are touched, for a loss that is not finite.
    """
    return _Run(model, loss, batches, lr).advance(n, clip)


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    n: int,
    lr: float = 1e-3,
    clip: float | None = None,
    validate: Iterable[Batch] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    every: int | None = None,
) -> pd.DataFrame:
    """Run `steps` to the end: one row a step, columns as `loss` reports them, and `val_…` where `validate` was read.

    Every `every` steps (default: once per pass over `batches`) the means over the cells of `validate` are taken,
    always with the same noise, and a checkpoint is written. With `patience`, training stops after that many
    validations without a lower `val_loss`, and the model ends with the weights of the best one.
    `checkpoint` is a folder; if it already holds a checkpoint, the run continues from it and ends with the weights,
    bit for bit, of a run that was never interrupted (given the same loss, batches and settings; `n` may grow).
    """
    if patience is not None and validate is None:
        raise ValueError("patience counts validations; pass validate=, a loader of held-out cells")
    run = _Run(model, loss, batches, lr)
    if every is None and (validate is not None or checkpoint is not None):
        every = len(run.batches)
    rows, best, watch = [], None, {"val_loss": math.inf, "waited": 0}
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        checkpoint.mkdir(parents=True, exist_ok=True)
        rows, best, watch = run.load(checkpoint) or (rows, best, watch)
    if run.step > n:
        raise ValueError(f"{checkpoint} is already at step {run.step}; ask for that many, or give another folder")
    tired = lambda: patience is not None and watch["waited"] >= patience
    with tqdm(total=n, initial=run.step, leave=False, disable=not _accelerator().is_main_process) as bar:
        for row in () if tired() else run.advance(n, clip):
            rows.append(row)
            bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
            bar.update()
            if every is None or run.step % every and run.step < n:
                continue
            if validate is not None:
                row |= {f"val_{name}": value for name, value in _validate(loss, validate).items()}
                better = row["val_loss"] < watch["val_loss"]
                lowest = min(row["val_loss"], watch["val_loss"])
                watch = {"val_loss": lowest, "waited": 0 if better else watch["waited"] + 1}
                if patience is not None and better:
                    best = {name: value.clone() for name, value in model.state_dict().items()}
            if checkpoint is not None:
                run.save(checkpoint, rows, best, watch)
            if tired():
                break
    if best is not None:
        model.load_state_dict(best)
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="step"))


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, decay: float) -> None:
    """target <- decay * target + (1 - decay) * online for every parameter; buffers, such as running means, are copied."""
    for p, q in zip(target.parameters(), online.parameters(), strict=True):
        p.lerp_(q, 1 - decay)
    for p, q in zip(target.buffers(), online.buffers(), strict=True):
        p.copy_(q)


@functools.cache
def _accelerator() -> Accelerator:
    several = "LOCAL_RANK" in os.environ  # torchrun's; on CPU, accelerate joins processes only if cpu=True
    return Accelerator(cpu=several and not (torch.cuda.is_available() or torch.xpu.is_available()))


class _Objective(nn.Module):
    """forward(b) = loss(b), with `model` as a submodule: DistributedDataParallel averages the gradients only of what
    passes through the forward of the module it wraps, and a loss may call any method of the model."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.report = model, functools.partial(loss)  # not a submodule, should it be a module itself

    def forward(self, b: Batch) -> dict[str, Tensor]:
        return self.report(b)


class _Run:
    """A loop that can stop anywhere and go on: optimizer, step, and the place in the data."""

    def __init__(self, model: nn.Module, loss: Loss, batches: Iterable[Batch], lr: float):
        accelerator = _accelerator()
        if accelerator.num_processes > 1 and not isinstance(batches, DataLoader):
            raise ValueError(
                f"{accelerator.num_processes} processes would all read the same cells from a "
                f"{type(batches).__name__}; pass a DataLoader, which is split among them"
            )
        if accelerator.mixed_precision == "fp16":
            raise ValueError("float16 needs its losses scaled, which this loop does not do; launch with bf16 instead")
        self.model, self.lr = model.to(accelerator.device), lr
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, fused=True)
        self.objective, self.batches = _Objective(model, loss), batches
        if accelerator.num_processes > 1:
            self.objective = DistributedDataParallel(self.objective, find_unused_parameters=True)
        if isinstance(batches, DataLoader):
            self.batches = prepare_data_loader(
                batches, accelerator.device, split_batches=True, put_on_device=True, rng_types=["generator"]
            )
        self.step = self.epoch = self.position = 0
        self.order = []  # states of the generators that drew this epoch's order

    def advance(self, n: int, clip: float | None) -> Iterator[dict[str, float]]:
        accelerator = _accelerator()
        for b in islice(self._passes(), n - self.step):
            self.model.train()
            self.optimizer.zero_grad()
            with accelerator.autocast():
                report = self.objective(send_to_device(b, accelerator.device))
            report["loss"].backward()
            report = _floats(report, f"at step {self.step + 1}")  # the step's one copy from device to host
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimizer.step()
            self.model.eval()
            self.step += 1
            yield report

    def _passes(self) -> Iterator[Batch]:
        """Minibatches for ever, from `epoch` and `position` on. A resumed epoch draws its order again, then skips what
        was seen."""
        loader = isinstance(self.batches, DataLoader)
        generators = [getattr(self.batches, name, None) for name in ("generator", "synchronized_generator")]
        generators = [torch.default_generator] + [generator for generator in generators if generator is not None]
        while True:
            now, rest = torch.get_rng_state(), self.batches
            if loader and hasattr(rest, "set_epoch"):
                rest.set_epoch(self.epoch)
            if self.position:
                for generator, state in zip(generators, self.order, strict=True):
                    generator.set_state(state)
                rest = skip_first_batches(rest, self.position) if loader else islice(rest, self.position, None)
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

    def save(self, folder: Path, rows: list[dict], best: dict | None, watch: dict) -> None:
        """Write into a temporary folder, rename it, then drop what it replaces: at every instant one is whole."""
        accelerator = _accelerator()
        device, main = accelerator.device, accelerator.is_main_process
        part, whole = folder / f"writing-{self.step:09d}", folder / f"step-{self.step:09d}"
        if main:
            for old in folder.glob("writing-*"):
                shutil.rmtree(old)
            part.mkdir()
        accelerator.wait_for_everyone()
        torch.save(
            {
                "cpu": torch.get_rng_state(),
                "order": self.order,
                "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            },
            part / f"random-{accelerator.process_index}.pt",
        )
        if main:
            save_model(self.model, str(part / "model.safetensors"))
            if best is not None:
                save_file(best, part / "best.safetensors")
            torch.save(
                {
                    "step": self.step,
                    "epoch": self.epoch,
                    "position": self.position,
                    "rows": rows,
                    "watch": watch,
                    "optimizer": self.optimizer.state_dict(),
                    "given": self._given(),
                },
                part / "state.pt",
            )
        accelerator.wait_for_everyone()
        if main:
            for file in part.iterdir():
                with file.open() as f:
                    os.fsync(f.fileno())  # on the disk before the name is
            part.rename(whole)
            for old in set(folder.glob("step-*")) - {whole}:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def load(self, folder: Path) -> tuple[list[dict], dict | None, dict] | None:
        """Continue from the newest checkpoint of `folder`, if there is one; nothing is unpickled."""
        if not (newest := max(folder.glob("step-*"), default=None)):
            return None
        read = functools.partial(torch.load, weights_only=True, map_location="cpu")
        state = _intact(read, newest / "state.pt")
        for name, value in self._given().items():
            if state["given"][name] != value:
                raise ValueError(
                    f"{newest} was written with {name} = {state['given'][name]}, not {value}; "
                    "give the same, or another folder"
                )
        _intact(load_file, newest / "model.safetensors")
        try:
            load_model(self.model, newest / "model.safetensors")
        except RuntimeError as error:
            raise ValueError(f"{newest} holds the weights of another model; give that, or another folder") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        random = _intact(read, newest / f"random-{_accelerator().process_index}.pt")
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"], _accelerator().device)
        self.order = random["order"]
        best = newest / "best.safetensors"
        return state["rows"], _intact(load_file, best) if best.exists() else None, state["watch"]

    def _given(self) -> dict:
        return {
            "lr": self.lr,
            "number of processes": _accelerator().num_processes,
            "minibatches per epoch": len(self.batches) if hasattr(self.batches, "__len__") else None,
        }


def _intact(read: Callable, path: Path):
    try:
        return read(path)
    except Exception as error:  # torch, zip, pickle and safetensors each have their own
        raise ValueError(f"{path} is damaged and cannot be read; delete {path.parents[1]} and train again") from error


def _floats(report: dict[str, Tensor], where: str) -> dict[str, float]:
    """The entries as floats, each the mean over processes; a loss that is not finite stops here."""
    accelerator = _accelerator()
    values = torch.stack([torch.as_tensor(value, device=accelerator.device).detach() for value in report.values()])
    floats = dict(zip(report, accelerator.reduce(values, "mean").tolist()))
    if not math.isfinite(floats["loss"]):
        raise FloatingPointError(
            f"the loss is {floats['loss']} {where}; lower lr, set clip, or look for NaN in the minibatch"
        )
    return floats


@torch.no_grad()
def _validate(loss: Loss, batches: Iterable[Batch]) -> dict[str, float]:
    """Means over cells, each time in the same order and with the same noise; the training's random stream is left
    alone."""
    accelerator = _accelerator()
    device, totals, cells = accelerator.device, {}, 0
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu, device_type=device.type), accelerator.autocast():
        torch.manual_seed(0)
        if hasattr(sampler := getattr(batches, "sampler", None), "set_epoch"):
            sampler.set_epoch(0)
        for b in batches:
            size = len(next(iter(b.values())))
            cells += size
            for name, value in loss(send_to_device(b, device)).items():
                totals[name] = totals.get(name, 0) + size * value
    if not cells:
        raise ValueError("validate yielded no minibatch; pass a list or a DataLoader that holds at least one cell")
    return _floats({name: total / cells for name, total in totals.items()}, "in validation")
