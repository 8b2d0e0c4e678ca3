"""The selective scan beside mambapy's, and a training step of four BiMamba layers over a whole transcriptome.

mambapy's block computes the same y from the same u, delta, A, B, C and D, by a parallel scan that keeps every state of
every channel for the gradient, padded to a power of two steps. Timed is the scan forward and backward, of 4 sequences
of 128 channels with 16 states, in interleaved repeats: processor time on one thread, the wall clock on two. Memory is
what one scan takes at its peak, in a process of its own, its input and gradients included.
"""

import statistics
import subprocess
import sys
from functools import partial

import torch
from models import now
from samples import PEAK
from torch import Tensor, nn

from lab import ssm, train

LENGTHS, B, D, N = (2048, 8192, 18_432), 4, 128, 16
GENES, WIDTH, LAYERS = 18_432, 64, 4
ALONE = (
    PEAK
    + """import sys, time
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads({threads})
import scans
{work}
before, start, spent = peak(), time.perf_counter(), time.process_time()
{call}
print(time.perf_counter() - start, time.process_time() - spent, peak() - before, peak())"""
)


def given(length: int) -> list[Tensor]:
    """u, delta (B, L, D), A (D, N), B, C (B, L, N), D (D,), and the gradient (B, L, D) that comes back."""
    random = torch.Generator().manual_seed(0)
    u, B_, C, back = (torch.randn(B, length, n, generator=random) for n in (D, N, N, D))
    delta, A = 0.1 * torch.rand(B, length, D, generator=random), -torch.arange(1.0, N + 1).repeat(D, 1)
    return [u, delta, A, B_, C, torch.ones(D), back]


def lab(u, delta, A, B, C, D, *, backend: str) -> Tensor:
    return ssm.selective_scan(u.mT, delta.mT, A, B.mT, C.mT, D, backend=backend).mT


def mambapy() -> object:
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=1, n_layers=1)).selective_scan


def scans() -> dict[str, object]:
    """Name -> y (B, L, D) of what `given` gives."""
    return {"mambapy": mambapy(), **{name: partial(lab, backend=name) for name in ("torch", "numba")}}


def both_ways(scan, of: list[Tensor]) -> list[Tensor]:
    """y and the gradients of all six, of what `given` gives."""
    *v, back = of
    v = [x.detach().requires_grad_() for x in v]
    return [y := scan(*v), *torch.autograd.grad(y, v, back)]


def milliseconds(length: int, repeats: int) -> dict[str, tuple[float, float]]:
    """On the wall and of the processor, of each scan: medians, after a short one that warms up."""
    took, works = {name: [] for name in scans()}, (given(64), given(length))
    for repeat in range(repeats + 1):
        for name, scan in scans().items():
            start = now()
            both_ways(scan, works[repeat > 0])
            took[name] += [now() - start] * (repeat > 0)
    return {name: tuple(1e3 * statistics.median(clock) for clock in zip(*times)) for name, times in took.items()}


def alone(work: str, call: str, threads: int) -> tuple[float, float, float, float]:
    """Seconds on the wall and of the processor; megabytes beside what `work` made, and of the process."""
    code = ALONE.format(here=str(__file__).rsplit("/", 1)[0], work=work, call=call, threads=threads)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    wall, cpu, beside, whole = map(float, said.split())
    return wall, cpu, beside / 1000, whole / 1000


def megabytes(name: str, length: int) -> float:
    """Of one scan forward and backward."""
    work = f"scan = scans.scans()[{name!r}] if {name!r} == 'mambapy' else scans.partial(scans.lab, backend={name!r})"
    return alone(f"{work}\nscans.both_ways(scan, scans.given(64))", f"scans.both_ways(scan, scans.given({length}))", 1)[
        2
    ]


class Layers(nn.Module):
    """x (B, L, W) -> (B, L, W): every layer adds what BiMamba makes of its normalised input."""

    def __init__(self, n: int = LAYERS, width: int = WIDTH):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n))
        self.mixers = nn.ModuleList(ssm.BiMamba(width) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        for norm, mixer in zip(self.norms, self.mixers):
            x = x + mixer(norm(x))
        return x


def learner(genes: int = GENES, n: int = LAYERS):
    """A step at each call of `next`: each gene's value is to be guessed from all other genes' tokens."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model, batch = Layers(n), {"x": torch.randn(B, genes, WIDTH), "y": torch.randn(B, genes)}
    guess = lambda b: {"loss": (model(b["x"])[..., 0] - b["y"]).square().mean()}
    return train.steps(model, guess, [batch], n=sys.maxsize)


def table(repeats: int) -> None:
    """Print both."""
    print(f"\nselective scan, forward and backward, {B} sequences of {D} channels with {N} states")
    print(f"{'milliseconds':<34}{'mambapy':>9}{'torch':>8}{'ratio':>8}{'numba':>8}{'ratio':>8}")
    before = torch.get_num_threads()
    for threads, clock in ((1, "CPU time, one thread"), (2, "wall clock, two threads")):
        torch.set_num_threads(threads)
        rows = {}
        for length in LENGTHS:
            rows[length] = {
                k: v[2 - threads] for k, v in milliseconds(length, max(1, 2048 * repeats // length)).items()
            }
            line(f"L = {length:,}, {clock}", rows[length])
        growth = {name: rows[LENGTHS[2]][name] / rows[LENGTHS[1]][name] for name in rows[LENGTHS[1]]}
        print(f"t(18,432) / t(8,192): {', '.join(f'{name} {x:.2f}' for name, x in growth.items())}")
    torch.set_num_threads(before)
    line(f"megabytes, L = {LENGTHS[2]:,}", {name: megabytes(name, LENGTHS[2]) for name in scans()})
    work = "learn = scans.learner()\nnext(scans.learner(64, 1))"
    wall, cpu, _, whole = alone(work, "next(learn)", 2)
    print(f"{LAYERS} layers of BiMamba, {B} x {GENES:,} genes, width {2 * WIDTH}: a training step on two threads takes")
    print(f"{wall:.1f} s on the wall, {cpu:.1f} s of the processor, {whole:.0f} MB in all", flush=True)


def line(what: str, of: dict[str, float]) -> None:
    """mambapy's, then both of lab's with how often they go into it."""
    ours = "".join(f"{of[name]:>8.0f}{of['mambapy'] / of[name]:>7.1f}x" for name in ("torch", "numba"))
    print(f"{what:<34}{of['mambapy']:>9.0f}{ours}", flush=True)
