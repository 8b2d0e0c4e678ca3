"""What `train rssm` trains: a recurrent state-space model of cells in time, and what is asked of it."""

from collections.abc import Iterable, Iterator

import anndata as ad
import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.distributions import Normal

from lab import data, world
from lab.errors import Refused
from lab.nets import Coordinates, Minibatch

from .series import largest, read, together

DREAMS = 99  # imagined futures of a track: the 5th and the 95th of them are the ends of the band that holds 90 %


class CellSeries(nn.Module):
    """Counts (B, T, G) -> log-expression in units of each gene's spread -> an RSSM, told actions (B, T, A) of which
    none was above 1 in training."""

    def __init__(self, n_genes: int, n_action: int, *, n_latent: int, n_hidden: int):
        super().__init__()
        self.coordinates = Coordinates(n_genes, 0)
        self.rssm = world.RSSM(n_genes, n_action, n_latent=n_latent, n_hidden=n_hidden)
        self.register_buffer("most", torch.zeros(n_action))

    def fit(self, batches: Iterable[Minibatch]) -> "CellSeries":
        """Fit the units to minibatches of training rows, which are read twice."""
        self.coordinates.fit(b["x"] for b in batches)
        self.most.copy_(largest(batches))
        return self

    def told(self, b: Minibatch) -> Minibatch:
        """What `world` reads: obs (B, T, G) and actions (B, T, A)."""
        return {"obs": self.coordinates(b["x"].flatten(0, 1)).view_as(b["x"]), "actions": b["action"] / self.most}

    def loss(self, b: Minibatch) -> dict[str, Tensor]:
        """`world.loss` of windows."""
        return world.loss(self.rssm, self.told(b))

    def walk(self, obs: Tensor, actions: Tensor, seen: Tensor, draw: bool = True) -> Iterator[world.State]:
        """The states after each row: drawn from the posterior where it was `seen` (B, T), else from the prior; with
        `draw=False` their means."""
        state = self.rssm.start(len(obs))
        for x, action, known in zip(obs.unbind(1), actions.unbind(1), seen.unbind(1)):
            (h, _), prior, posterior = self.rssm.step(state, action, x)
            mean, std = (
                torch.where(known[:, None], getattr(posterior, of), getattr(prior, of)) for of in ("mean", "stddev")
            )
            state = h, mean + std * torch.randn_like(std) if draw else mean
            yield state

    @torch.no_grad()
    def features(self, b: Minibatch) -> Tensor:
        """The filtered state (B, T, H + Z) after each row, along the posterior's means."""
        told = self.told(b)
        seen = torch.ones(b["x"].shape[:2], dtype=torch.bool, device=b["x"].device)
        states = self.walk(told["obs"], told["actions"], seen, draw=False)
        return torch.stack([self.rssm.features(state) for state in states], 1)

    @torch.no_grad()
    def foretold(self, b: Minibatch, seen: Tensor) -> Tensor:
        """Of log-expression in units of its spread the mean, and the ends of a band that holds 90 % (3, B, T, G), where
        only rows `seen` (B, T) are looked at."""
        told, steps = self.told(b), []
        many = [value.repeat(DREAMS, 1, 1) for value in told.values()]
        for state in self.walk(*many, seen.repeat(DREAMS, 1)):
            law = self.rssm.likelihood(state)
            mean, x = (of.view(DREAMS, *seen.shape[:1], -1) for of in (law.mean, law.sample()))
            steps.append(torch.stack([mean.mean(0), x.kthvalue(5, 0).values, x.kthvalue(95, 0).values]))
        return torch.stack(steps, 2)


def results(model: CellSeries, cells) -> tuple[dict, dict]:
    """How well windows of held-out tracks are described, how well their later halves are imagined from the earlier
    ones, and where every row is."""
    tested = [(len(b["x"]), *_bounds(model, b)) for b in send_to_device(list(cells.tested), model.most.device)]
    n = sum(size for size, _, _ in tested)
    bound, alone = (sum(row[0] * row[i] for row in tested) / n for i in (1, 2))
    rows = cells.everyone.dataset.__getitems__(list(range(cells.adata.n_obs)))
    table = _horizons(model, rows, [of for of in cells.tracks if cells.held_out[of[0]]])
    report = {"rows a window": cells.window, "held-out bound, nats a row": bound, "of genes by themselves": alone}
    report |= table.mul(table["rows"] / table["rows"].sum(), axis=0).sum().drop("rows").to_dict()
    placed = ad.AnnData(obs=cells.obs, obsm={"X_rssm": _states(model, rows, cells.tracks).numpy()})
    return report, {"latent.h5ad": placed.write_h5ad, "horizons.csv": table.to_csv}


def embed(model: CellSeries, cells: ad.AnnData, record: dict) -> dict[str, Tensor]:
    """The filtered state of each row, given the rows of its track up to it."""
    found = _read(cells, record)
    b = data.minibatch(cells) | {"action": found.action}
    return {"X_rssm": _states(model, b, list(found.tracks.values()))}


def predict(model: CellSeries, cells: ad.AnnData, record: dict, conditions: list, seed: int) -> ad.AnnData:
    """The rows after each time, imagined from what led to them and from the rows of their track up to it: mean
    log-expression in X, and layers "low" and "high", between which nine in ten observed values should be."""
    found, parts = _read(cells, record), {}
    for name, value in conditions:
        seen = torch.from_numpy(found.time <= _time(name, value))
        unseen = [track for track, rows in found.tracks.items() if not seen[rows[0]]]
        if unseen or seen.all():
            lack = f"no row of the track {unseen[0]!r} is seen up to" if unseen else "no row is later than"
            raise Refused(f"{lack} after={value}; times go from {found.time.min():g} to {found.time.max():g}")
        x = torch.zeros(cells.shape)
        x[seen] = data.minibatch(cells[seen.numpy()].copy())["x"]
        foretold = torch.empty(3, *cells.shape)
        for b, rows in together({"x": x, "action": found.action}, list(found.tracks.values())):
            foretold[:, rows[rows >= 0]] = model.foretold(b, seen[rows.clamp(min=0)])[:, rows >= 0]
        mean, low, high = model.coordinates.log_expression(foretold[:, ~seen]).numpy()
        obs = cells.obs[~seen.numpy()].assign(predicted_after=float(value))
        parts[value] = ad.AnnData(mean, obs=obs, var=cells.var, layers={"low": low, "high": high})
    return ad.concat(parts, index_unique="-" if len(parts) > 1 else None)


def _bounds(model: CellSeries, b: Minibatch) -> tuple[float, float]:
    """The sequence ELBO a row, and the same of N(0, I)."""
    alone = Normal(0, 1).log_prob(model.told(b)["obs"]).sum(-1).mean().item()
    return -model.loss(b)["loss"].item(), alone


def _horizons(model: CellSeries, b: Minibatch, tracks: list) -> pd.DataFrame:
    """For each number of blind steps: how many rows are so far on, squared errors in units of a gene's spread, and how
    many values are within the band."""
    found = []
    for some, rows in together(b, tracks):
        some = send_to_device(some, model.most.device)
        half = ((rows >= 0).sum(1, keepdim=True) + 1) // 2
        steps = torch.arange(rows.shape[1]) - half + 1
        mean, low, high = model.foretold(some, (steps <= 0).to(model.most.device)).cpu()
        x = model.told(some)["obs"].cpu()
        last = x.take_along_dim(half[..., None] - 1, 1)
        ahead = (rows >= 0) & (steps > 0)
        columns = {
            "squared error": (mean - x).square(),
            "last value stays": (last - x).square(),
            "mean of training rows": x.square(),
            "within the 90 % band": ((x > low) & (x < high)).float(),
        }
        kept = {name: value.mean(-1)[ahead].numpy() for name, value in columns.items()}
        found.append(pd.DataFrame({"blind steps": steps[ahead].numpy()} | kept))
    by = pd.concat(found).groupby("blind steps")
    return by.mean().assign(rows=by.size())


def _states(model: CellSeries, b: Minibatch, tracks: list) -> Tensor:
    placed = torch.empty(len(b["x"]), model.rssm.n_state)
    for some, rows in together(b, tracks):
        placed[rows[rows >= 0]] = model.features(send_to_device(some, model.most.device)).cpu()[rows >= 0]
    return placed


def _read(cells: ad.AnnData, record: dict):
    found, told = read(cells, record["arguments"]), record["conditions"]["action"]
    if len(found.told) != len(told):
        raise Refused(f"the run was told {', '.join(told)} of a row, and these cells have {', '.join(found.told)}")
    return found


def _time(name: str, value: str) -> float:
    if name == "after":
        try:
            return float(value)
        except ValueError:
            pass
    raise Refused(f"{name}={value} is no condition of an rssm; give the last time that is seen, such as after=3")
