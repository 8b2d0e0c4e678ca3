"""The selective scan of `chunked` and all around it, compiled by numba for the processor, threaded over channels.

LANES channels go through time together, the innermost loop over them, so that the compiler can use the processor's
vectors; what they need at once stays in its cache. Softplus, skip and gate are in the same pass: each tensor of the
sequence's size that is not made saves more than its arithmetic costs. The first call compiles for some seconds, into
`__pycache__` beside this file or where NUMBA_CACHE_DIR says; later processes read it there.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from .vectorised import FAST, LOG2_E, exp2, sigmoid, softplus

LANES = 64
LN_2 = 0.6931471805599453


def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus: bool, chunk: int) -> tuple[Tensor, Tensor]:
    """y (B, D, L) and h_L (B, D, N) as `selective_scan` defines them, of tensors of one dtype."""
    z = u[:, :0] if z is None else z
    u, delta, B, C, z = (v.transpose(1, 2).contiguous() for v in (u, delta, B, C, z))
    D = A.new_empty(0) if D is None else D
    bias = A.new_zeros(len(A)) if delta_bias is None else delta_bias
    y, last = CompiledScan.apply(u, delta, A, B, C, D, z, bias, delta_softplus, min(chunk, u.shape[1]))
    return y.transpose(1, 2), last


class CompiledScan(torch.autograd.Function):
    """u, delta, z (B, L, D), A (D, N), B, C (B, L, N), D, bias (D,) -> y (B, L, D) and the last state (B, D, N).

    D and z may be empty: then there is no skip or gate.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, bias, soft, chunk):
        (b, l, d), A2 = u.shape, (A * LOG2_E).T.contiguous()
        y, h = torch.empty_like(u), u.new_empty(b, -(-l // chunk) + 1, A.shape[1], d)  # h: before each chunk, and last
        given, ctx.how = (u, delta, A2, B, C, D, z, bias, h), (soft, chunk)
        each(_forward, (*given, y), *ctx.how)
        ctx.save_for_backward(*given)
        return y, h[:, -1].mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dlast):
        u, _, _, B, C, _, z, _, h = ctx.saved_tensors
        du, ddelta, dz, dA = (torch.empty_like(v) for v in (u, u, z, h[:, 1:]))  # dA, dD of each chunk
        dB, dC = (v.new_empty(-(-u.shape[2] // LANES), *v.shape) for v in (B, C))  # of each group of channels
        made = (du, ddelta, dA, dB, dC, dD := torch.empty_like(dA[:, :, 0]), dz)
        each(_backward, (*ctx.saved_tensors, dy.contiguous(), dlast.mT.contiguous(), *made), *ctx.how)
        dA, dD, dbias = (v.sum((0, 1)) for v in (dA, dD, ddelta))
        return du, ddelta, dA.T, dB.sum(0), dC.sum(0), dD, dz, dbias, None, None


def each(kernel, tensors: tuple[Tensor, ...], *options) -> None:
    """Run the kernel for every cell and every LANES channels of the first tensor, on as many threads as torch has."""
    arrays, (b, _, d) = [v.detach().numpy() for v in tensors], tensors[0].shape
    cells, first = np.divmod(np.arange(b * -(-d // LANES)), -(-d // LANES))
    lanes = min(LANES, -(-d // 16) * 16)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for job in [pool.submit(kernel, *arrays, i, j, lanes, *options) for i, j in zip(cells, first * LANES)]:
            job.result()


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _forward(u, delta, A2, B, C, D, z, bias, enters, y, b, j0, lanes, soft, chunk):
    """Of cell b, channels j0 to j0 + lanes; lanes past the last channel hold zeros. A2 (N, D) is A log2(e)."""
    L, N, w = u.shape[1], len(A2), min(lanes, u.shape[2] - j0)
    (A, h), (shift, skip, v, r, x, acc) = np.zeros((2, N, lanes), u.dtype), np.zeros((6, lanes), u.dtype)
    A[:, :w], shift[:w] = A2[:, j0 : j0 + w], bias[j0 : j0 + w]
    if D.size:
        skip[:w] = D[j0 : j0 + w]
    for t in range(L):
        if t % chunk == 0:
            enters[b, t // chunk, :, j0 : j0 + w] = h[:, :w]
        v[:w], r[:w] = u[b, t, j0 : j0 + w], delta[b, t, j0 : j0 + w]
        for j in range(lanes):
            r[j] += shift[j]
            r[j] = softplus(r[j]) if soft else r[j]
            x[j] = r[j] * v[j]
            acc[j] = 0
        for n in range(N):
            Bn, Cn = B[b, t, n], C[b, t, n]
            for j in range(lanes):
                h[n, j] = exp2(r[j] * A[n, j]) * h[n, j] + x[j] * Bn
                acc[j] += Cn * h[n, j]
        if D.size:
            for j in range(lanes):
                acc[j] += skip[j] * v[j]
        if z.size:
            r[:w] = z[b, t, j0 : j0 + w]
            for j in range(lanes):
                acc[j] *= r[j] * sigmoid(r[j])
        y[b, t, j0 : j0 + w] = acc[:w]
    enters[b, -1, :, j0 : j0 + w] = h[:, :w]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _backward(
    u, delta, A2, B, C, D, z, bias, enters, dy, dlast, du, ddelta, dA, dB, dC, dD, dz, b, j0, lanes, soft, chunk
):
    """As `_forward`; g (N, lanes) is what flows from step t to h_{t-1}; dB, dC of these channels alone."""
    L, N, w, group, one = u.shape[1], len(A2), min(lanes, u.shape[2] - j0), j0 // LANES, u.dtype.type(1)
    a, h = np.zeros((chunk, N, lanes), u.dtype), np.zeros((chunk + 1, N, lanes), u.dtype)
    A, g, gA = np.zeros((N, lanes), u.dtype), np.zeros((N, lanes), u.dtype), np.zeros((N, lanes), u.dtype)
    v, r = np.zeros((chunk, lanes), u.dtype), np.zeros((chunk, lanes), u.dtype)
    d, x = np.zeros((chunk, lanes), u.dtype), np.zeros((chunk, lanes), u.dtype)
    shift, skip, gD = np.zeros(lanes, u.dtype), np.zeros(lanes, u.dtype), np.zeros(lanes, u.dtype)
    e, s, acc = np.zeros(lanes, u.dtype), np.zeros(lanes, u.dtype), np.zeros(lanes, u.dtype)
    to_input, to_exponent = np.zeros(lanes, u.dtype), np.zeros(lanes, u.dtype)
    A[:, :w], g[:, :w], shift[:w] = A2[:, j0 : j0 + w], dlast[b, :, j0 : j0 + w], bias[j0 : j0 + w]
    if D.size:
        skip[:w] = D[j0 : j0 + w]
    for k in range(dA.shape[1] - 1, -1, -1):
        start = k * chunk
        steps = min(chunk, L - start)
        h[0, :, :w] = enters[b, k, :, j0 : j0 + w]
        gA[:], gD[:] = 0, 0
        for i in range(steps):
            v[i, :w], r[i, :w] = u[b, start + i, j0 : j0 + w], delta[b, start + i, j0 : j0 + w]
            for j in range(lanes):
                r[i, j] += shift[j]
                d[i, j] = softplus(r[i, j]) if soft else r[i, j]
                x[i, j] = d[i, j] * v[i, j]
            for n in range(N):
                Bn = B[b, start + i, n]
                for j in range(lanes):
                    a[i, n, j] = exp2(d[i, j] * A[n, j])
                    h[i + 1, n, j] = a[i, n, j] * h[i, n, j] + x[i, j] * Bn
        for i in range(steps - 1, -1, -1):
            t = start + i
            e[:w] = dy[b, t, j0 : j0 + w]
            if z.size:
                acc[:], s[:w] = 0, z[b, t, j0 : j0 + w]
                for n in range(N):
                    Cn = C[b, t, n]
                    for j in range(lanes):
                        acc[j] += Cn * h[i + 1, n, j]
                for j in range(lanes):
                    q = sigmoid(s[j])
                    acc[j] = e[j] * (acc[j] + skip[j] * v[i, j]) * q * (one + s[j] * (one - q))
                    e[j] *= s[j] * q
                dz[b, t, j0 : j0 + w] = acc[:w]
            to_input[:], to_exponent[:] = 0, 0
            for n in range(N):
                Bn, Cn = B[b, t, n], C[b, t, n]
                sB, sC = u.dtype.type(0), u.dtype.type(0)
                for j in range(lanes):
                    gh = g[n, j] + e[j] * Cn  # dL/dh_t
                    sC += e[j] * h[i + 1, n, j]
                    sB += gh * x[i, j]
                    to_input[j] += gh * Bn
                    g[n, j] = gh * a[i, n, j]
                    q = g[n, j] * h[i, n, j]  # dL/d(dt A)
                    gA[n, j] += q * d[i, j]
                    to_exponent[j] += q * A[n, j]
                dB[group, b, t, n], dC[group, b, t, n] = sB, sC
            for j in range(lanes):
                gD[j] += e[j] * v[i, j]
                s[j] = to_input[j] * v[i, j] + u.dtype.type(LN_2) * to_exponent[j]  # dL/d dt
                s[j] *= sigmoid(r[i, j]) if soft else one
                to_input[j] = to_input[j] * d[i, j] + e[j] * skip[j]
            du[b, t, j0 : j0 + w], ddelta[b, t, j0 : j0 + w] = to_input[:w], s[:w]
        dA[b, k, :, j0 : j0 + w], dD[b, k, j0 : j0 + w] = gA[:, :w], gD[:w]
