"""Mamba's block (Gu & Dao 2023), with the parameters of `mamba_ssm.Mamba`, and two of them for both directions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.errors import Refused

from .backends import causal_conv, checked, known
from .scan import selective_scan


class MambaBlock(nn.Module):
    """x (B, L, d_model) -> (B, L, d_model); what leaves at t depends on what entered up to t.

    Every position is widened to `expand` x d_model channels, which a short convolution over `d_conv` positions smooths.
    From them come, position by position, the scan's steps delta (through a bottleneck of `dt_rank`), B and C of
    `d_state` states; a gate made of the same input multiplies what the scan returns. `state_dict()` has the names and
    shapes of `mamba_ssm.Mamba`'s, and loads into it and from it. `backend` is `selective_scan`'s.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        *,
        backend: str = "auto",
    ):
        super().__init__()
        self.rank, self.backend = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank, known(backend)
        if min(d_model, d_state, d_conv, expand, self.rank) < 1:
            raise Refused("a Mamba block has at least one of everything it counts: see its signature")
        self.d_model, self.d_state, width = d_model, d_state, expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * width, bias=False)  # x | z
        self.conv1d = nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1)
        self.x_proj = nn.Linear(width, self.rank + 2 * d_state, bias=False)  # dt | B | C
        self.dt_proj = nn.Linear(self.rank, width)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(width, 1))  # S4D-real: A = -1, -2, ...
        self.D = nn.Parameter(torch.ones(width))
        self.out_proj = nn.Linear(width, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.exp(torch.empty(width).uniform_(math.log(0.001), math.log(0.1)))
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + (-torch.expm1(-steps)).log())  # softplus of it is the step

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.d_model or not x.numel():
            raise Refused(f"this block reads sequences (B, L, {self.d_model}); got {tuple(x.shape)}")
        x, z = (F.linear(x, weight).mT for weight in self.in_proj.weight.chunk(2))  # (B, D, L) each
        x = self._convolve(x)
        dt, B, C = self.x_proj(x.mT).split([self.rank, self.d_state, self.d_state], -1)
        delta = (dt @ self.dt_proj.weight.T).mT  # its bias is added in the scan, in float32
        A = -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()
        y = selective_scan(
            *(x, delta, A, B.mT, C.mT, self.D),
            z=z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y.mT)

    def _convolve(self, x: Tensor) -> Tensor:
        """silu of each channel's weighted sum of its last `d_conv` values (B, D, L)."""
        if x.is_cuda and causal_conv():
            return causal_conv()(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu")
        if checked(self.backend, x.device, x.dtype, self.d_state) == "numba":
            from .convolved import convolve

            dtype = torch.promote_types(x.dtype, torch.float32)
            return convolve(*(v.to(dtype) for v in (x, self.conv1d.weight.squeeze(1), self.conv1d.bias))).to(x.dtype)
        return F.silu(self.conv1d(x)[..., : x.shape[-1]].mT.contiguous()).mT  # channels innermost, as all that follows


class BiMamba(nn.Module):
    """x (B, L, d_model) -> (B, L, d_model): the sum of a block that reads forwards and one that reads backwards.

    Every position sees all others. Arguments as `MambaBlock`'s; the children `mamba_fwd` and `mamba_rev` each load into
    a `mamba_ssm.Mamba`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        *,
        backend: str = "auto",
    ):
        super().__init__()
        self.mamba_fwd, self.mamba_rev = (
            MambaBlock(d_model, d_state, d_conv, expand, dt_rank, backend=backend) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mamba_fwd(x) + self.mamba_rev(x.flip(1)).flip(1)
