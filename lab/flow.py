"""Flows: a field that carries one law to another, learned from pairs of points and no simulation; which pairs to take;
and a density by change of variables.

Time is the book's: t = 0 at the data x0, t = 1 at the source x1, which is N(0, I) unless a minibatch brings another.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.distributions import Normal

from lab import denoise, sample
from lab.errors import Refused
from lab.nets import Minibatch, mlp
from lab.path import Path, like, linear


def loss(velocity: Callable[..., Tensor], b: Minibatch, *, path: Path = linear()) -> dict[str, Tensor]:
    """Conditional flow matching (Lipman et al. 2023): the squared error of `velocity(x_t, t, b)` as a prediction of
    dx_t/dt, summed over features, the mean over cells. Its minimum is not 0.

    The ends are `b["x"]`, data, and `b["x1"]`, of the same shape, drawn from N(0, I) where the minibatch has none.
    `denoise.loss` it is, of a denoiser that predicts the velocity: a source is what noise was.
    """
    return denoise.loss(denoise.Denoiser(velocity, path, "velocity"), b | {"eps": _source(b)})


def _source(b: Minibatch) -> Tensor:
    """`b["x1"]`, or N(0, I) where there is none."""
    if "x" not in b or b.get("x1", b["x"]).shape != b["x"].shape:
        got = {name: tuple(b[name].shape) for name in ("x", "x1") if name in b}
        raise Refused(f"a pair has two ends of one shape, data b['x'] and source b['x1']; got {got}")
    return b["x1"] if "x1" in b else torch.randn_like(b["x"])


def couple(x0: Tensor, x1: Tensor, cond: Tensor | None = None, *, weight: float = math.inf) -> tuple[Tensor, Tensor]:
    """(x0, x1) with x1 reordered so that the sum of |x0 - x1|^2 over pairs is the least: optimal transport between two
    minibatches (B, ...) (Pooladian et al. 2023, Tong et al. 2024). Cells keep their place, and so their conditions.

    With `cond`, codes (B,) or numbers (B, C), a source point belongs to the condition of its row, and a pair costs
    `weight` times the squared difference of conditions more (for codes 1 where they differ): C2OT (Cheng & Schwing
    2025). An infinite weight, for codes, couples each level by itself. Without it conditions get parts of the source.
    """
    if x0.shape != x1.shape or not len(x0):
        raise Refused(f"coupling pairs as many cells as source points; got {tuple(x0.shape)} and {tuple(x1.shape)}")
    if cond is None:
        return x0, x1[_assign(x0, x1)]
    codes = not cond.is_floating_point() and cond.dim() == 1
    if len(cond) != len(x0) or not weight >= 0 or weight == math.inf and not codes:
        raise Refused(
            f"conditions are codes (B,), or numbers (B, C) with a finite weight from 0 up; got {tuple(cond.shape)} "
            f"{cond.dtype} for {len(x0)} cells, weight={weight}"
        )
    if weight == math.inf:
        order = torch.arange(len(x0), device=x0.device)
        for rows in (torch.where(cond == level)[0] for level in cond.unique()):
            order[rows] = rows[_assign(x0[rows], x1[rows])]
        return x0, x1[order]
    apart = cond[:, None] != cond if codes else torch.cdist(cond.flatten(1), cond.flatten(1)).square()
    return x0, x1[_assign(x0, x1, weight * apart)]


def _assign(x0: Tensor, x1: Tensor, more: Tensor | float = 0.0) -> Tensor:
    """The column of each row in the assignment of least cost: a product, since every one has all of |x0|^2, |x1|^2."""
    cost = (more - 2 * (x0.detach().flatten(1) @ x1.detach().flatten(1).T)).cpu().numpy()
    if not np.isfinite(cost).all():
        raise Refused("a coupling of points that are not finite has no cost; look for the NaN before the coupling")
    prices = _prices(cost).astype(np.float64) if len(cost) > 128 else 0.0  # a few are matched as fast without
    return torch.as_tensor(linear_sum_assignment(cost - prices)[1], device=x0.device)


def _prices(cost: np.ndarray) -> np.ndarray:
    """What to take off each column (B,), so that rows contend for fewer of them: the order of assignments stays, since
    every one has all columns, and the search for the best is several times as fast. By Sinkhorn's iterations, the
    potentials of entropic transport (Cuturi 2013), ever sharper down to what tells neighbours apart."""
    with np.errstate(all="ignore"):  # where nothing can be said, 0
        cost = cost.astype(np.float32, copy=False)
        rows = cost.min(1, keepdims=True)
        columns = (cost - rows).min(0)
        scale, sharp = (cost - rows - columns).mean(), np.float32(0.1)
        while sharp > 0.8 / len(cost):
            plan = (rows + columns - cost) / (sharp * scale)
            np.exp(np.maximum(plan, -40, out=plan), out=plan)
            b = np.ones_like(columns)
            for _ in range(12):
                a = 1 / (plan @ b)
                b = 1 / (a @ plan)
            rows, columns = rows + sharp * scale * np.log(a)[:, None], columns + sharp * scale * np.log(b)
            sharp /= 5
    return np.nan_to_num(columns, nan=0, posinf=0, neginf=0)


def reflow(velocity: sample.Field, x1: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """(x0, x1): source points and where `velocity` takes them through decreasing `times`, by Heun's method. A field
    trained on these pairs has the same ends and, with an exact one, straighter ways (Liu et al. 2023)."""
    _downwards(times)
    return sample.last(sample.heun(velocity, x1, times)), x1


@torch.no_grad()
def path_energy(velocity: sample.Field, x1: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The integral of |velocity|^2 along the way of each source point through `times` from 1 to 0, and the squared
    distance between its ends, both (B,). The first is never less, and no more where a point goes straight at one speed;
    its mean over an optimal flow is the squared Wasserstein distance (Benamou & Brenier 2000)."""
    _downwards(times)
    ways = torch.stack([x1, *sample.heun(velocity, x1, times)])
    squares = torch.stack([velocity(x, t).square().flatten(1).sum(1) for x, t in zip(ways, times, strict=True)])
    return torch.trapezoid(squares, -times.to(x1), dim=0), (ways[-1] - x1).square().flatten(1).sum(1)


def mean_loss(mean: Callable[..., Tensor], b: Minibatch, *, path: Path = linear()) -> dict[str, Tensor]:
    """MeanFlow (Geng et al. 2025): `mean(x, t, s)` learns the mean velocity from t down to s <= t of the field that
    `loss` would teach: x - (t - s) mean(x, t, s) is where x arrives, in one evaluation. The target dx_t/dt - (t - s)
    d mean / dt is not differentiated. Half of the pairs have s = t, as in `loss`."""
    x1, x0 = _source(b), b["x"]
    t = torch.rand(len(x0), device=x0.device, dtype=x0.dtype)
    s = torch.where(torch.rand_like(t) < 0.5, t, t * torch.rand_like(t))
    x, v = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    y, change = torch.func.jvp(lambda x, t: mean(x, t, s), (x, t), (v, torch.ones_like(t)))
    target = (v - like(t - s, x) * change).detach()
    return {"loss": (y - target).square().flatten(1).sum(1).mean()}


def _downwards(times: Tensor) -> None:
    if not (len(times) > 1 and (times.diff() < 0).all()):
        raise Refused("a flow goes from 1 to 0, from the source to data: pass at least two times, which decrease")


class CouplingFlow(nn.Module):
    """A density on R^D by change of variables: layers that scale and shift one half of x by what a network makes of
    the other, in turn (Dinh et al. 2017), and N(0, I) at the end. `log_prob` (B,) integrates to 1 for any weights."""

    def __init__(self, n: int, *, n_layers: int = 6, n_hidden: int = 64):
        super().__init__()
        if n < 2 or n_layers < 1:
            raise Refused(f"a coupling layer splits x in two: at least 2 features and 1 layer; got {n} and {n_layers}")
        self.n, kept = n, [n // 2 if i % 2 == 0 else n - n // 2 for i in range(n_layers)]
        self.nets = nn.ModuleList(mlp(k, n_hidden, n_hidden, 2 * (n - k)) for k in kept)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) and log |det dz/dx| (B,): the sum of what was stretched."""
        log_det = x.new_zeros(len(x))
        for net in self.nets:
            a, b = x.tensor_split([net[0].in_features], 1)
            log_scale, shift = _scale_shift(net(a))
            x, log_det = torch.cat([b * log_scale.exp() + shift, a], 1), log_det + log_scale.sum(1)
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        for net in reversed(self.nets):
            b, a = z.tensor_split([self.n - net[0].in_features], 1)
            log_scale, shift = _scale_shift(net(a))
            z = torch.cat([a, (b - shift) * (-log_scale).exp()], 1)
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.n:
            raise Refused(f"this flow has a density of points (B, {self.n}); got {tuple(x.shape)}")
        z, log_det = self(x)
        return Normal(0, 1).log_prob(z).sum(1) + log_det

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.inverse(torch.randn(n, self.n).to(self.nets[0][0].weight))


def _scale_shift(y: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * (y.chunk(2, 1)[0] / 2).tanh(), y.chunk(2, 1)[1]  # bounded: exp of a free output overflows
