"""A network that denoises along a path, its one loss, and the denoisers that need no training.

Whatever a network predicts, of x_t = alpha(t) x0 + sigma(t) eps it says both ends: score matching, diffusion and flow
matching differ in what is predicted, in the path, and in how they weigh times.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lab.nets import ConditionEmbedding, Minibatch
from lab.nets.conditions import entry
from lab.path import Path, like

KINDS = ("eps", "x0", "score", "velocity")


class Denoiser(nn.Module):
    """`net(x_t, t, cond)` read as a prediction of `predicts` (eps, x0, score or velocity) along `path`.

    Called as `denoiser(x, t)`, x (B, ...) and t () or (B,), it estimates (x0, eps): the field of `sample.ddim`. `score`
    and `velocity` are the fields of other samplers. `path.split` raises ValueError at a time at which the prediction
    does not determine both ends.
    """

    def __init__(self, net: Callable[..., Tensor], path: Path, predicts: str = "eps"):
        super().__init__()
        if predicts not in KINDS:
            raise ValueError(f"a network predicts one of {', '.join(KINDS)}; got {predicts!r}")
        self.net, self.path, self.predicts = net, path, predicts

    def predict(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        """What the network says, of the shape of x."""
        if t.shape not in ((), (len(x),)):
            raise ValueError(f"t is one time for all cells or (B,); got {tuple(t.shape)} for {len(x)} cells")
        y = self.net(x, t.expand(len(x)), cond)
        if y.shape != x.shape:
            raise ValueError(f"a prediction has the shape of x; the network made {tuple(y.shape)} of {tuple(x.shape)}")
        return y

    def forward(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> tuple[Tensor, Tensor]:
        return self.path.split(x, t, **{self.predicts: self.predict(x, t, cond)})

    def score(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        """grad_x log p_t = -eps / sigma(t). ValueError where sigma(t) = 0."""
        return -self(x, t, cond)[1] / _positive(self.path.sigma(t), x)

    def velocity(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        """dx_t/dt of the probability-flow ODE, in our direction of time."""
        return self.path.velocity(*self(x, t, cond), t)


def loss(denoiser: Denoiser, b: Minibatch, *, weight: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """Squared error of the prediction at one random time a cell, summed over features, times `weight(t)` (B,); the mean
    over cells. Its minimum is not 0.

    Times are uniform on (0, 1], one in each B-th of it, which is quieter than B independent ones (Kingma et al.
    2021). A minibatch may bring its own, `t` (B,), and its own noise, `eps` like `x`. Raises ValueError for a
    score without a weight where sigma(0) = 0: that loss has no mean.
    """
    if "x" not in b:
        raise ValueError(f"the loss denoises b['x'], and this minibatch has only {sorted(b)}")
    x0, path = b["x"], denoiser.path
    if denoiser.predicts == "score" and weight is None and "t" not in b and path.sigma(torch.zeros(())) == 0:
        raise ValueError(
            "the error of a score grows like 1 / sigma^2, which has no mean over times down to 0: pass "
            "weight=lambda t: path.sigma(t) ** 2, or a minibatch with its own t"
        )
    t, eps = b["t"] if "t" in b else _times(x0), b["eps"] if "eps" in b else torch.randn_like(x0)
    y = denoiser.predict(path.interpolate(x0, eps, t), t, b)
    error = nn.functional.mse_loss(y, _target(denoiser, x0, eps, t), reduction="none").flatten(1).sum(-1)  # (B,)
    return {"loss": (error if weight is None else weight(t) * error).mean()}


def guided(denoiser: Denoiser, b: Minibatch, *, scale: float | Callable[[Tensor], Tensor]) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, whose w is scale - 1): the prediction without the conditions of `b`
    plus `scale` times what they add. Scale 0 drops them, 1 is the conditional denoiser. A function of the times (B,)
    guides in an interval only: `scale=lambda t: 1 + 2 * ((0.3 < t) & (t < 0.7))` (Kynkäänniemi et al. 2024).

    It is called with as many cells as `b` has, in that order. Those conditions are dropped whose embedding was built
    with `null=True`, others stay; ValueError where there is none.
    """
    if not callable(scale) and not math.isfinite(scale):
        raise ValueError(f"scale={scale}: 0 drops the conditions, 1 takes them as they are, more exaggerates them")
    told = [module for module in denoiser.modules() if isinstance(module, ConditionEmbedding) and len(module.nulls)]
    names = {name for module in told for name in module.levels}
    if not names:
        raise ValueError(
            "the network knows no 'without': build its ConditionEmbedding with null=True and train on nets.drop(b, ...)"
        )
    without = b | {n: torch.full((len(entry(b, n)),), -1, device=b[n].device) for n in names}

    def net(x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        w = torch.as_tensor(scale(t) if callable(scale) else scale, dtype=x.dtype, device=x.device)
        if (w == 1).all():
            return denoiser.predict(x, t, b)
        low = denoiser.predict(x, t, without)
        return low if (w == 0).all() else low + like(w, x) * (denoiser.predict(x, t, b) - low)

    return Denoiser(net, denoiser.path, denoiser.predicts)


def guided_by(denoiser: Denoiser, log_prob: Callable[[Tensor, Tensor], Tensor], *, scale: float = 1.0) -> Denoiser:
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): the noise that `denoiser` finds in x_t, minus `scale`
    times sigma(t) times the gradient in x of `log_prob(x, t)` (B,), the log-probability of what is wanted given the
    *noisy* x and its t (B,).

    With log p_t(y | x) itself and scale 1 it is the denoiser of p(x | y). ValueError where alpha(t) = 0, and for a
    log_prob of another shape.
    """

    def eps(x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            log_p = log_prob(at, t)
            if log_p.shape != x.shape[:1]:
                raise ValueError(f"log_prob gives one number a cell, {tuple(x.shape[:1])}; got {tuple(log_p.shape)}")
            (slope,) = torch.autograd.grad(log_p.sum(), at)
        return denoiser(x, t, cond)[1] - scale * like(denoiser.path.sigma(t), x) * slope

    return Denoiser(eps, denoiser.path, "eps")


def gaussian(path: Path, mean: Tensor, cov: Tensor) -> Denoiser:
    """The exact denoiser of N(mean (D,), cov (D, D)): with a data set's moments, the best that is linear in x."""
    if cov.shape != 2 * mean.shape or (cov - cov.T).abs().max() > 1e-4 * cov.abs().max():
        raise ValueError(f"a mean (D,) and a symmetric cov (D, D); got {tuple(mean.shape)} and {tuple(cov.shape)}")
    lam, axes = torch.linalg.eigh(cov)

    def x0(x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        alpha, sigma, m, v, U = like(path.alpha(t), x), like(path.sigma(t), x), mean.to(x), lam.to(x), axes.to(x)
        return m + ((x - alpha * m) @ U * (alpha * v / (alpha**2 * v + sigma**2))) @ U.T

    return Denoiser(x0, path, "x0")


def mixture(path: Path, means: Tensor, *, std: Tensor | float = 0.0, weights: Tensor | None = None) -> Denoiser:
    """The exact denoiser of Gaussians N(means_k, std_k^2 I), means (K, D), std () or (K,), `weights` (K,) equal unless
    given. With std 0 it is that of a finite set: no network has a lower loss on its training cells `means`.
    """
    std, weights = torch.as_tensor(std), torch.ones(len(means)) if weights is None else weights
    if means.dim() != 2 or std.shape not in ((), means.shape[:1]) or weights.shape != means.shape[:1]:
        raise ValueError(
            f"means are (K, D), std () or (K,), weights (K,); got {tuple(means.shape)}, {tuple(std.shape)}, "
            f"{tuple(weights.shape)}"
        )

    def x0(x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        alpha, sigma, m, v = like(path.alpha(t), x), like(path.sigma(t), x), means.to(x), std.to(x) ** 2
        var = alpha**2 * v + sigma**2  # (B, 1) or (B, K)
        distance = (x[:, None] - alpha[..., None] * m).square().sum(-1)  # (B, K)
        r = (weights.to(x).log() - distance / (2 * var) - x.shape[1] / 2 * var.log()).softmax(-1)
        gain = alpha * v / var
        return (r * (1 - alpha * gain)) @ m + (r * gain).sum(-1, keepdim=True) * x

    return Denoiser(x0, path, "x0")


def _times(x0: Tensor) -> Tensor:
    """(B,) in (0, 1]: each B-th of the interval has one, in random order."""
    order = torch.randperm(len(x0), device=x0.device)
    return (order + 1 - torch.rand((), device=x0.device)).to(x0.dtype) / len(x0)


def _target(denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    if denoiser.predicts == "velocity":
        return denoiser.path.velocity(x0, eps, t)
    if denoiser.predicts == "score":
        return -eps / _positive(denoiser.path.sigma(t), eps)
    return x0 if denoiser.predicts == "x0" else eps


def _positive(sigma: Tensor, x: Tensor) -> Tensor:
    if (sigma == 0).any():
        raise ValueError("sigma(t) = 0: clean data have no score; use times above 0")
    return like(sigma, x)
