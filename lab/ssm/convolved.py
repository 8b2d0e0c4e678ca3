"""The block's short causal convolution and its silu, compiled: one pass over the sequence each way."""

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from .compiled import each
from .vectorised import FAST, sigmoid


class CausalConv(torch.autograd.Function):
    """x (B, L, D), weight (K, D), bias (D,) -> silu(bias + sum_k weight_k x_{t-K+1+k}) (B, L, D), x_{-1} = ... = 0."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        y = torch.empty_like(x)
        each(_forward, (x, weight, bias, y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        dx, dweight, dbias = torch.empty_like(x), *(v.new_zeros(len(x), *v.shape).double() for v in (weight, bias))
        each(_backward, (x, weight, bias, dy.contiguous(), dx, dweight, dbias))
        return dx, dweight.sum(0).to(x.dtype), dbias.sum(0).to(x.dtype)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `causal_conv1d_fn` with its silu: x (B, D, L), weight (D, K), bias (D,) of one dtype -> (B, D, L)."""
    return CausalConv.apply(x.mT.contiguous(), weight.T.contiguous(), bias).mT


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _forward(x, weight, bias, y, b, j0, lanes):
    """Of cell b, channels j0 to j0 + lanes; `past` holds the last K values, that of time t in row t % K."""
    K, w = len(weight), min(lanes, x.shape[2] - j0)
    W, past = np.zeros((K, lanes), x.dtype), np.zeros((K, lanes), x.dtype)
    shift, s = np.zeros(lanes, x.dtype), np.zeros(lanes, x.dtype)
    W[:, :w], shift[:w] = weight[:, j0 : j0 + w], bias[j0 : j0 + w]
    for t in range(x.shape[1]):
        past[t % K, :w] = x[b, t, j0 : j0 + w]
        s[:] = shift
        for k in range(K):
            row = (t + 1 + k) % K
            for j in range(lanes):
                s[j] += W[k, j] * past[row, j]
        for j in range(lanes):
            s[j] *= sigmoid(s[j])
        y[b, t, j0 : j0 + w] = s[:w]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _backward(x, weight, bias, dy, dx, dweight, dbias, b, j0, lanes):
    """As `_forward`; what flows to the value of time t is complete after K steps, in row t % K of `flows`."""
    K, L, w, one = len(weight), x.shape[1], min(lanes, x.shape[2] - j0), x.dtype.type(1)
    W, past, flows = np.zeros((K, lanes), x.dtype), np.zeros((K, lanes), x.dtype), np.zeros((K, lanes), x.dtype)
    shift, s, e = np.zeros(lanes, x.dtype), np.zeros(lanes, x.dtype), np.zeros(lanes, x.dtype)
    dW, db = np.zeros((K, lanes), np.float64), np.zeros(lanes, np.float64)
    W[:, :w], shift[:w] = weight[:, j0 : j0 + w], bias[j0 : j0 + w]
    for t in range(L + K - 1):
        if t < L:
            past[t % K, :w] = x[b, t, j0 : j0 + w]
            flows[t % K] = 0
            e[:w] = dy[b, t, j0 : j0 + w]
            s[:] = shift
            for k in range(K):
                row = (t + 1 + k) % K
                for j in range(lanes):
                    s[j] += W[k, j] * past[row, j]
            for j in range(lanes):
                q = sigmoid(s[j])
                e[j] *= q * (one + s[j] * (one - q))
                db[j] += e[j]
            for k in range(K):
                row = (t + 1 + k) % K
                for j in range(lanes):
                    dW[k, j] += e[j] * past[row, j]
                    flows[row, j] += W[k, j] * e[j]
        if t >= K - 1:
            dx[b, t - K + 1, j0 : j0 + w] = flows[(t + 1) % K, :w]
    dweight[b, :, j0 : j0 + w], dbias[b, j0 : j0 + w] = dW[:, :w], db[:w]
