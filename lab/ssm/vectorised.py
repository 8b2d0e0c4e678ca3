"""exp2, softplus and sigmoid for compiled code: arithmetic alone, which vectorises in float32, unlike calls of numpy.

In float64 they are numpy's. numba's cache looks at the file of the kernel alone: who edits here empties `__pycache__`.
"""

import numpy as np
from numba import types
from numba.extending import overload

LOG2_E = 1.4426950408889634
FAST = {"contract", "reassoc", "nsz"}  # sums in any order; NaN and infinity keep their meaning
INLINE = {"fastmath": FAST, "forceinline": True}
f4 = np.float32


def exp2(x):
    """2^x."""


def log1p(x):
    """log(1 + x) of x in [0, 1]."""


def sigmoid(x):
    """1 / (1 + exp(-x))."""


def softplus(x):
    """log(1 + exp(x))."""


@overload(exp2, jit_options=INLINE)
def _exp2(x):
    if x != types.float32:
        return lambda x: np.exp2(x)

    def polynomial(x):
        x = x if not x < f4(-127) else f4(-127)  # 2^-127 comes out as 0, 2^128 as infinity, NaN as NaN
        x = x if not x > f4(128) else f4(128)
        k = np.rint(x)
        f = x - k  # 2^f to 1.6e-7 of it, exact at 0: minimax over [-1/2, 1/2]
        p = f4(0.0096715130) + f4(0.0013264724) * f
        p = f4(1) + f * (f4(0.69314700) + f * (f4(0.24022242) + f * (f4(0.055507336) + f * p)))
        return p * np.int32((k + f4(127)) * f4(2**23)).view(np.float32)  # k into the exponent's bits

    return polynomial


@overload(log1p, jit_options=INLINE)
def _log1p(x):
    if x != types.float32:
        return lambda x: np.log1p(x)

    def series(x):  # 2 artanh(s), whose next term is 1.4e-8 of it
        s = x / (f4(2) + x)
        q = s * s
        p = f4(1 / 7) + q * (f4(1 / 9) + q * (f4(1 / 11) + q * f4(1 / 13)))
        return f4(2) * s * (f4(1) + q * (f4(1 / 3) + q * (f4(1 / 5) + q * p)))

    return series


@overload(sigmoid, jit_options=INLINE)
def _sigmoid(x):
    real = np.float32 if x == types.float32 else np.float64
    one, log2_e = real(1), real(LOG2_E)
    return lambda x: one / (one + exp2(-x * log2_e))


@overload(softplus, jit_options=INLINE)
def _softplus(x):
    real = np.float32 if x == types.float32 else np.float64
    zero, log2_e = real(0), real(LOG2_E)
    return lambda x: (x if not x < zero else zero) + log1p(exp2(-abs(x) * log2_e))
