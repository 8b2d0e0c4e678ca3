"""A law for every perturbation, in coordinates of cells: by a flow that carries controls to perturbed cells, or by a
diffusion that makes them of noise."""

from collections.abc import Callable

import anndata as ad
import torch
from torch import Tensor, nn

from lab import denoise, flow, path, sample
from lab.errors import Refused
from lab.nets import MLP, ConditionEmbedding, Coordinates, Minibatch

from .design import Design


class PerturbFlow(nn.Module):
    """dx/dt = net(x, t, parts), from control cells at t = 1 to perturbed ones at t = 0, in the fitted `coordinates`.

    `controls` (N, G) are counts of training controls, the source. What a combination is told is the sum of its parts'
    vectors, and what the network makes of a sum that it never saw is its own affair. With `told=False`, the ablation,
    it is told nothing and carries controls to the mixture of all training cells.
    """

    def __init__(
        self, design: Design, coordinates: Coordinates, controls: Tensor, *, told: bool = True, n_hidden: int = 128
    ):
        super().__init__()
        self.design, self.coordinates, self.told = design, coordinates, told
        self.net = _net(design, coordinates, told, n_hidden)
        self.register_buffer("source", coordinates(controls))  # (N, D)
        if not len(self.source):
            raise Refused("a flow begins at control cells, and there are none; give those of training")

    def predict(self, control: ad.AnnData, name: str, *, n_steps: int = 20, seed: int = 0) -> ad.AnnData:
        """Where control cells arrive, by Heun's method: a cell's state and depth are its own."""
        start = lambda b: self.coordinates(b["x"])
        return _predicted(self, control, name, start, n_steps, seed)

    def velocity(self, x: Tensor, t: Tensor, cond: Minibatch) -> Tensor:
        """dx/dt (B, D)."""
        return self.net(x, t, cond)


def flow_loss(model: PerturbFlow, b: Minibatch, *, couple: bool = True) -> dict[str, Tensor]:
    """Flow matching from controls drawn at random, which optimal transport then deals to the cells of each label by
    themselves; without `couple`, as they come. `b` is of `model.design.loader`."""
    x = model.coordinates(b["x"])
    x1 = model.source[torch.randint(len(model.source), (len(x),), device=x.device)]
    if couple:
        x, x1 = flow.couple(x, x1, b[model.design.by])
    return flow.loss(model.velocity, {"x": x, "x1": x1, "parts": model.design(b)})


class PerturbDiffusion(nn.Module):
    """The same law by a denoiser along the cosine path, from noise at t = 1: nothing of a control cell but its depth is
    in what it becomes, and predicted cells have no partners. `told=False` is the ablation, as in the flow."""

    def __init__(self, design: Design, coordinates: Coordinates, *, told: bool = True, n_hidden: int = 128):
        super().__init__()
        self.design, self.coordinates, self.told = design, coordinates, told
        self.denoiser = denoise.Denoiser(_net(design, coordinates, told, n_hidden), path.cosine(), "velocity")

    def predict(self, control: ad.AnnData, name: str, *, n_steps: int = 40, seed: int = 0) -> ad.AnnData:
        """As many new cells as controls, with their depths, along the probability-flow ODE."""
        start = lambda b: torch.randn(len(b["x"]), self.coordinates.n_out, device=b["x"].device)
        return _predicted(self, control, name, start, n_steps, seed)

    def velocity(self, x: Tensor, t: Tensor, cond: Minibatch) -> Tensor:
        """dx/dt (B, D)."""
        return self.denoiser.velocity(x, t, cond)


def diffusion_loss(model: PerturbDiffusion, b: Minibatch) -> dict[str, Tensor]:
    """`denoise.loss` of the cells' coordinates, told their parts."""
    return denoise.loss(model.denoiser, {"x": model.coordinates(b["x"]), "parts": model.design(b)})


def _net(design: Design, coordinates: Coordinates, told: bool, n_hidden: int) -> MLP:
    embed = ConditionEmbedding({"parts": len(design.parts)} if told else {}, n_embed=32)
    return MLP(coordinates.n_out, coordinates.n_out, n_hidden=n_hidden, embed=embed)


def _predicted(model, control: ad.AnnData, name: str, start: Callable, n_steps: int, seed: int) -> ad.AnnData:
    if n_steps < 1:
        raise Refused(f"n_steps={n_steps}: one step of the solver or more")
    row, times = model.design.row(name), torch.linspace(1, 0, n_steps + 1)

    def draw(b: Minibatch) -> Tensor:
        told = {"parts": row.expand(len(b["x"]), -1)}
        x = sample.last(sample.heun(lambda x, t: model.velocity(x, t, told), start(b), times.to(row)))
        return model.coordinates.draw(x, b["log_library"])

    return model.design.predicted(control, name, draw, seed=seed)
