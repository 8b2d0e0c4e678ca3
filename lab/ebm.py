"""Energy-based models: p(x) = exp(-energy(x)) / Z, with energy(x) (B,) low where x is likely and score = -grad energy.

Z is what the family is about: `log_partition` has it by quadrature in the plane, `ais` by chains anywhere, `nce_loss`
learns it, `contrastive` trains without it, and an `RBM` is small enough to sum it.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lab.errors import Refused
from lab.sample import langevin, last, mala

Energy = Callable[[Tensor], Tensor]


class Confined(nn.Module):
    """energy(x) = net(x) + |x|^2 / 2 width^2 (B,): a net (B, D) -> (B, 1) that grows at most linearly is normalisable
    then. An infinite width leaves the net alone."""

    def __init__(self, net: nn.Module, width: float):
        super().__init__()
        if not width > 0:
            raise Refused(f"the width at which an energy is confined is positive, inf for none; got {width}")
        self.net, self.width = net, width

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1) + x.square().sum(-1) / (2 * self.width**2)


def score(energy: Energy, x: Tensor) -> Tensor:
    """-grad energy, of the shape of x (B, ...)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(energy(x).sum(), x)[0]


class Replay:
    """Chains that persist between steps of training (Tieleman 2008; Du & Mordatch 2019), one from each row of `start`
    (N, D), noise or data; each draw continues some of them, and before that sends the fraction `reset` back to a row
    of `start`."""

    def __init__(self, start: Tensor, *, reset: float = 0.05):
        if not (len(start) and 0 <= reset <= 1):
            raise Refused(f"a replay holds a chain at least and resets a fraction in [0, 1]; got {len(start)}, {reset}")
        self.start, self.reset, self.x = start, reset, start.clone()

    def draw(self, energy: Energy, n: int, *, step: float, n_steps: int) -> Tensor:
        """x (n, D) after `n_steps` of Langevin of size `step`, kept for the next draw. Raises `Refused` for more than
        there are, and where a chain has left for infinity."""
        if n > len(self.x):
            raise Refused(f"{n} chains of {len(self.x)}: hold more of them, or draw fewer")
        i = torch.randperm(len(self.x))[:n]
        fresh = torch.rand(n, 1).to(self.x.device) < self.reset
        x = torch.where(fresh, self.start[torch.randint(len(self.start), (n,))], self.x[i])
        self.x[i] = last(langevin(lambda x, t: score(energy, x), x, torch.zeros(1), step, n_steps))
        return self.x[i]


def contrastive(energy: Energy, real: Tensor, fake: Tensor, *, l2: float = 0.0) -> dict[str, Tensor]:
    """mean energy(real) - mean energy(fake): the gradient of the negative log-likelihood if `fake` are draws of the
    model (Hinton 2002, with what k steps from the data or a replay give). `l2` weighs the squared energies (Du &
    Mordatch 2019), which bounds them and moves the optimum."""
    low, high = energy(real), energy(fake.detach())
    gap = low.mean() - high.mean()
    return {"loss": gap + l2 * (low.square().mean() + high.square().mean()), "gap": gap}


def nce_loss(log_prob: Callable[[Tensor], Tensor], real: Tensor, noise: Tensor, log_noise) -> dict[str, Tensor]:
    """Logistic loss of telling `real` from `noise` of log-density `log_noise(x)` (B,) by the ratio of densities
    (Gutmann & Hyvarinen 2010). `log_prob` need not be normalised: what it learns is, with the constant in it."""
    odds = log(len(real) / len(noise))
    of_real, of_noise = (log_prob(x) - log_noise(x) + odds for x in (real, noise))
    loss = softplus(-of_real).mean() + len(noise) / len(real) * softplus(of_noise).mean()
    right = (of_real > 0).float().mean() / 2 + (of_noise < 0).float().mean() / 2
    return {"loss": loss, "accuracy": right}


@torch.no_grad()
def log_partition(energy: Energy, *, limit: float = 6.0, n: int = 301) -> Tensor:
    """log of the integral of exp(-energy) over the square [-limit, limit]^2, by n x n points of the trapezoid rule.

    Raises `Refused` where more than 1e-3 of it stands within a tenth of the edge: then the square is too small, or
    there is no Z."""
    line = torch.linspace(-limit, limit, n)
    log_w = torch.full((n,), 2 * limit / (n - 1)).log() + log(0.5) * (line.abs() == limit)
    log_p = -energy(torch.cartesian_prod(line, line)).double().view(n, n) + log_w + log_w[:, None]
    total = log_p.logsumexp((0, 1))
    inner = (line.abs() <= 0.9 * limit).float().log()
    outside = -torch.expm1((log_p + inner + inner[:, None]).logsumexp((0, 1)) - total)
    if not outside < 1e-3:
        raise Refused(
            f"{outside:.1%} of exp(-energy) lies at the edge of [-{limit:g}, {limit:g}]^2: widen or confine it"
        )
    return total


@torch.no_grad()
def ais(energy: Energy, x: Tensor, log_prior: Energy, *, powers: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Annealed importance sampling (Neal 2001): from draws x (B, D) of exp(log_prior), normalised, through the laws
    exp((1 - power) log_prior - power energy), with a step of `mala` at each of `powers`, which rise from 0 to 1.

    Returns log-weights (B,) and x: E[exp(log-weight)] = Z, so the log of their mean falls short of log Z on average."""
    if not (powers[0] == 0 and powers[-1] == 1 and (powers.diff() > 0).all()):
        raise Refused("powers rise from 0, the prior, to 1, the energy: torch.linspace(0, 1, 400)")
    log_w = torch.zeros_like(x[:, 0])
    for before, power in pairwise(powers):
        log_w = log_w - (power - before) * (energy(x) + log_prior(x))
        law = lambda x, power=power: (1 - power) * log_prior(x) - power * energy(x)
        x, _ = last(mala(law, x, step=step, n_steps=1))
    return log_w, x


class RBM(nn.Module):
    """Binary units v (B, V) and hidden h (B, H) with exp(v W h + v a + h b) (Smolensky 1986; Hinton 2002); as an energy
    of v, h is summed out."""

    def __init__(self, n_visible: int, n_hidden: int):
        super().__init__()
        self.W = nn.Parameter(0.1 * torch.randn(n_visible, n_hidden))
        self.a, self.b = nn.Parameter(torch.zeros(n_visible)), nn.Parameter(torch.zeros(n_hidden))

    def forward(self, v: Tensor) -> Tensor:
        """-log sum_h exp(...) (B,)."""
        return -v @ self.a - softplus(v @ self.W + self.b).sum(-1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, n_steps: int) -> Tensor:
        """v after drawing h given v, and v given h, n_steps times."""
        for _ in range(n_steps):
            h = (v @ self.W + self.b).sigmoid().bernoulli()
            v = (h @ self.W.T + self.a).sigmoid().bernoulli()
        return v

    def log_partition(self) -> Tensor:
        """log Z, exactly, by the sum over all 2^H hidden states; Refused for more than 20 of them."""
        if len(self.b) > 20:
            raise Refused(f"2^{len(self.b)} hidden states are too many to sum: keep to 20 units, or take AIS")
        h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).to(self.b)] * len(self.b)).view(-1, len(self.b))
        return (h @ self.b + softplus(h @ self.W.T + self.a).sum(-1)).logsumexp(0)
