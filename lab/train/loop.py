"""One training loop for every chapter, on one CPU or over many machines.

`steps` is the loop: it takes an optimizer step, yields what the loss reported, and the body of the caller's `for` is
the callback. `fit` runs it to the end with a progress bar, validation and checkpoints. Underneath is one Accelerator
per process, so the same lines run under `torchrun` and `accelerate launch`.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lab.nets import Minibatch

from .checkpoint import Place, accelerator, load, save

Loss = Callable[[Minibatch], dict[str, Tensor]]
Rate = float | Callable[[int], float]


class Run:
    """A loop that can stop anywhere and go on: optimizer, step, and the place in the data."""

    def __init__(self, model: nn.Module, loss: Loss, batches: Iterable[Minibatch], n: int, lr: Rate):
        if accelerator().mixed_precision == "fp16":
            raise ValueError("float16 needs its losses scaled, which this loop does not do; launch with bf16 instead")
        self.model, self.n, self.lr, self.step = model.to(accelerator().device), n, lr, 0
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=self.rate(), fused=True)
        self.objective, self.place = _Objective(model, loss), Place(batches)
        if accelerator().num_processes > 1:
            self.objective = DistributedDataParallel(self.objective, find_unused_parameters=True)

    def advance(self, clip: float | None) -> Iterator[dict[str, float]]:
        """Take the steps that are left, one each time that the caller asks."""
        for b in islice(self.place.minibatches(), self.n - self.step):
            self.model.train()
            self.optimizer.zero_grad()
            with accelerator().autocast():
                report = self.objective(send_to_device(b, accelerator().device))
            report["loss"].backward()
            # the step's one copy from device to host
            report = _floats(report, f"at step {self.step + 1}")
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            if callable(self.lr):
                self.optimizer.param_groups[0]["lr"] = self.rate()
            self.optimizer.step()
            self.model.eval()
            self.step += 1
            yield report

    def rate(self) -> float:
        """The learning rate of the coming step."""
        return self.lr(self.step) if callable(self.lr) else self.lr

    def given(self) -> dict:
        """What must be the same when the run is continued; under a schedule, the number of steps too."""
        at = sorted({0, self.n // 8, self.n // 4, self.n // 2, self.n - 1})
        rates = {"n": self.n, "lr": [self.lr(i) for i in at]} if callable(self.lr) else {"lr": self.lr}
        return rates | {"number of processes": accelerator().num_processes, "minibatches per epoch": len(self.place)}


def steps(
    model: nn.Module, loss: Loss, batches: Iterable[Minibatch], *, n: int, lr: Rate = 1e-3, clip: float | None = None
) -> Iterator[dict[str, float]]:
    """Take `n` AdamW steps on `loss(b)["loss"]`; after each, yield every entry of `loss(b)` as a float, the mean over
    processes.

    `batches` is run through again and again: a list, or a DataLoader whose `batch_size` is the global one (each of P
    processes gets a P-th of every minibatch). Everything the loss trains is inside `model`, which is in training mode
    within a step and in evaluation mode in the caller's loop body. `lr` is a number, or a function of the steps taken
    so far, such as `cosine`. `clip` bounds the norm of the gradient. Two networks are two generators advanced in turn.
    Raises ValueError for a loader that is empty or spent or, among several processes, not a DataLoader;
    FloatingPointError, before the weights are touched, for a loss that is not finite.
    """
    return Run(model, loss, batches, n, lr).advance(clip)


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Minibatch],
    *,
    n: int,
    lr: Rate = 1e-3,
    clip: float | None = None,
    validate: Iterable[Minibatch] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    every: int | None = None,
) -> pd.DataFrame:
    """Run `steps` to the end: one row a step, columns as `loss` reports them, and `val_…` where `validate` was read.

    Every `every` steps (default: once per pass over `batches`) the means over the cells of `validate` are taken,
    always with the same noise, and a checkpoint is written. With `patience`, training stops after that many
    validations without a lower `val_loss`, and the model ends with the weights of the best one.
    `checkpoint` is a folder; if it already holds a checkpoint, the run continues from it and ends with the weights,
    bit for bit, of a run that was never interrupted, given the same loss, batches and settings; `n` may grow where
    `lr` is a number, and under a schedule, which would have been another, is refused.
    """
    if patience is not None and validate is None:
        raise ValueError("patience counts validations; pass validate=, a loader of held-out cells")
    run = Run(model, loss, batches, n, lr)
    if every is None and (validate is not None or checkpoint is not None):
        every = len(run.place.batches)
    rows, best, watch = [], None, {"val_loss": math.inf, "waited": 0}
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        checkpoint.mkdir(parents=True, exist_ok=True)
        rows, best, watch = load(run, checkpoint) or (rows, best, watch)
    if run.step > n:
        raise ValueError(
            f"{checkpoint} is already at step {run.step}, and {n} were asked for; ask for more, or give another folder"
        )
    tired = lambda: patience is not None and watch["waited"] >= patience
    with tqdm(total=n, initial=run.step, leave=False, disable=not accelerator().is_main_process) as bar:
        for row in () if tired() else run.advance(clip):
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
                    best = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
            if checkpoint is not None:
                save(run, checkpoint, rows, best, watch)
            if tired():
                break
    if best is not None:
        model.load_state_dict(best)
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="step"))


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, decay: float) -> None:
    """target <- decay * target + (1 - decay) * online for every parameter; buffers (running means) are copied."""
    for p, q in zip(target.parameters(), online.parameters(), strict=True):
        p.lerp_(q, 1 - decay)
    for p, q in zip(target.buffers(), online.buffers(), strict=True):
        p.copy_(q)


class _Objective(nn.Module):
    """forward(b) = loss(b), with `model` as a submodule: DistributedDataParallel averages the gradients only of what
    passes through the forward of the module it wraps, and a loss may call any method of the model."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.report = model, functools.partial(loss)  # not a submodule, should it be a module itself

    def forward(self, b: Minibatch) -> dict[str, Tensor]:
        return self.report(b)


def _floats(report: dict[str, Tensor], where: str) -> dict[str, float]:
    """The entries as floats, each the mean over processes; a loss that is not finite stops here."""
    values = torch.stack([torch.as_tensor(v, device=accelerator().device).detach() for v in report.values()])
    floats = dict(zip(report, accelerator().reduce(values, "mean").tolist()))
    if not math.isfinite(floats["loss"]):
        raise FloatingPointError(
            f"the loss is {floats['loss']} {where}; lower lr, set clip, or look for NaN in the minibatch"
        )
    return floats


@torch.no_grad()
def _validate(loss: Loss, batches: Iterable[Minibatch]) -> dict[str, float]:
    """Means over cells, each time in the same order and with the same noise; the training's random stream is left
    alone."""
    device, totals, cells = accelerator().device, {}, 0
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu, device_type=device.type), accelerator().autocast():
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
