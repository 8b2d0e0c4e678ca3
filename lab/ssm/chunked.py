"""The selective scan in plain PyTorch, chunk by chunk: what `compiled` does, to read, and where there is no numba.

Autograd through a loop of L steps would keep all L states of every channel, (B, D, L, N) numbers, several times. Here
only the state that enters each chunk is kept; the backward pass computes a chunk's states again before it needs them.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """C_t . h_t (B, D, L) and h_L (B, D, N) of u, dt (B, D, L), A (D, N) and B, C (B, N, L)."""
    u, dt, B, C = (v.permute(2, 0, 1).contiguous() for v in (u, dt, B, C))  # time first
    y, last = ChunkedScan.apply(u, dt, A.T.contiguous(), B, C, min(chunk, len(u)))
    return y.permute(1, 2, 0), last.mT


class ChunkedScan(torch.autograd.Function):
    """u, dt (L, B, D), A (N, D), B, C (L, B, N) -> y (L, B, D) and the last state (B, N, D)."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, chunk):
        y, cuts = torch.empty_like(u), [slice(t, t + chunk) for t in range(0, len(u), chunk)]
        enters = u.new_zeros(len(cuts) + 1, u.shape[1], *A.shape)  # the state before each chunk, and the last
        room = _room(enters, chunk)
        for k, c in enumerate(cuts):
            _, h = _states(enters[k], u[c], dt[c], A, B[c], room)
            torch.matmul(C[c, :, None], h[1:], out=y[c, :, None])
            enters[k + 1] = h[-1]
        ctx.save_for_backward(u, dt, A, B, C, enters)
        ctx.cuts = cuts
        return y, enters[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dlast):
        """g_t = dL/dh_t = C_t dy_t + a_{t+1} g_{t+1}: the same recurrence from the other end."""
        u, dt, A, B, C, enters = ctx.saved_tensors
        du, ddt, dB, dC = (torch.empty_like(v) for v in (u, dt, B, C))
        dA = A.new_empty(len(ctx.cuts), *A.shape)  # a row a chunk: `sum` loses fewer digits than adding one by one
        room, (g_room, _) = (_room(enters, ctx.cuts[0].stop) for _ in range(2))
        carry = dlast
        with torch.autocast(u.device.type, enabled=False):
            for k, c in reversed(list(enumerate(ctx.cuts))):
                a, h = _states(enters[k], u[c], dt[c], A, B[c], room)
                g = g_room[: len(a)]  # (T, B, N, D)
                dC[c] = torch.mul(h[1:], dy[c, :, None], out=g).sum(-1)
                torch.mul(C[c, ..., None], dy[c, :, None], out=g)
                g[-1] += carry
                g_t, a_t = g.unbind(), a.unbind()
                for t in range(len(g) - 1, 0, -1):
                    g_t[t - 1].addcmul_(a_t[t], g_t[t])
                carry = a[0] * g[0]
                to_exponent = a.mul_(g).mul_(h[:-1])  # dL/d(dt A); h is free for what comes now
                to_input = torch.matmul(B[c, :, None], g).squeeze(2)  # dL/d(dt u)
                dB[c] = torch.mul(g, (dt[c] * u[c])[:, :, None], out=h[1:]).sum(-1)
                du[c] = to_input * dt[c]
                ddt[c] = to_input * u[c] + torch.mul(to_exponent, A, out=h[1:]).sum(2)
                dA[k] = to_exponent.mul_(dt[c, :, None]).sum((0, 1))
        return du, ddt, dA.sum(0), dB, dC, None


def _room(enters: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Memory for the decays and states of one chunk, used again by the next."""
    return enters.new_empty(chunk, *enters.shape[1:]), enters.new_empty(chunk + 1, *enters.shape[1:])


def _states(h0: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, room) -> tuple[Tensor, Tensor]:
    """a_t = exp(dt_t A) (T, B, N, D), and h_t = a_t h_{t-1} + dt_t u_t B_t (T + 1, B, N, D) from h_0."""
    a, h = (r[: len(u) + i] for i, r in enumerate(room))
    torch.mul(dt[:, :, None], A, out=a).exp_()
    torch.mul((dt * u)[:, :, None], B[..., None], out=h[1:])
    h[0] = h0
    states = h.unbind()
    for decay, before, now in zip(a.unbind(), states, states[1:]):
        now.addcmul_(decay, before)
    return a, h
