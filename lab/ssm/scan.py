"""The selective scan: a linear recurrence whose coefficients depend on the input (Gu & Dao 2023)."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.errors import Refused

from .backends import checked, cuda_kernel


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
    chunk: int = 64,
) -> Tensor | tuple[Tensor, Tensor]:
    """y (B, D, L) of u (B, D, L), of its dtype; with `return_last_state` also h_L (B, D, N), float32 or float64.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,      y_t = (C_t . h_t + D u_t) silu(z_t)

    Each of D channels has N states of its own, from h_0 = 0. delta, z (B, D, L); A (D, N), negative for a system that
    forgets; B, C (B, N, L); D, delta_bias (D,). delta_t is `delta` + `delta_bias`, through a softplus if
    `delta_softplus`. The signature is `mamba_ssm.selective_scan_fn`'s.

    `backend`: "loop", a step at a time, is the definition; "torch" keeps one state in `chunk` and recomputes the others
    for the gradient; "numba" does so compiled; "cuda" is `mamba_ssm`'s kernel; "auto" is `chosen`. All compute in
    float32, also under autocast, or in float64 where any argument is. NaN and infinity go where the recurrence carries
    them. Raises `Refused` for shapes that do not fit and for a back end that cannot run here.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, chunk)
    given = [v for v in (u, delta, A, B, C, D, z, delta_bias) if v is not None]
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in given) else torch.float32
    backend = checked(backend, u.device, dtype, A.shape[1])
    if backend == "cuda":
        return _by_mamba(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    of = [None if v is None else v.to(dtype) for v in (u, delta, A, B, C, D, z, delta_bias)]
    y, last = _scan(backend)(*of, delta_softplus, chunk)
    return (y.to(u.dtype), last) if return_last_state else y.to(u.dtype)


def loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """C_t . h_t (B, D, L) and h_L (B, D, N), as the equation says: the truth that the other back ends are held to."""
    h, ys = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        h = (dt[..., t, None] * A).exp() * h + (dt * u)[..., t, None] * B[:, None, :, t]  # (B, D, N)
        ys.append((C[:, None, :, t] * h).sum(-1))
    return torch.stack(ys, -1), h


def _scan(backend: str):
    """A function of tensors of one dtype, or None, as `selective_scan` names them."""
    if backend == "numba":
        from .compiled import scan

        return scan
    if backend == "torch":
        from .chunked import scan

        return partial(_around, scan)
    return partial(_around, loop)


def _around(scan, u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk):
    """The recurrence that `scan` computes, between softplus, skip and gate."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    y, last = scan(u, F.softplus(delta) if delta_softplus else delta, A, B, C, chunk)
    if D is not None:
        y = torch.addcmul(y, D[:, None], u)
    return (y if z is None else y * F.silu(z)), last


def _by_mamba(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    """The kernel reads sequences in u's dtype and works in float32, as A, D and delta_bias must be."""
    kernel, _ = cuda_kernel()
    D, delta_bias = (None if v is None else v.float() for v in (D, delta_bias))
    delta, B, C, z = (None if v is None else v.to(u.dtype) for v in (delta, B, C, z))
    return kernel(u, delta, A.float(), B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _check(u, delta, A, B, C, D, z, delta_bias, chunk) -> None:
    if u.dim() != 3 or A.dim() != 2 or not u.numel() or not A.numel():
        raise Refused(f"a scan needs u (B, D, L) and A (D, N), none of them 0; got {_shape(u)} and {_shape(A)}")
    (b, d, l), n = u.shape, A.shape[1]
    right = {"A": (d, n), "B": (b, n, l), "C": (b, n, l), "D": (d,), "delta_bias": (d,)}
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, v in given.items():
        if v is not None and tuple(v.shape) != right.get(name, (b, d, l)):
            shape = right.get(name, (b, d, l))
            raise Refused(f"{name} is {shape} beside u {_shape(u)} and A {_shape(A)}; got {_shape(v)}")
        if v is not None and not v.is_floating_point():
            raise Refused(f"a scan is of real floating-point numbers; {name} is {v.dtype}, so convert it")
        if v is not None and v.device != u.device:
            raise Refused(f"u is on {u.device} and {name} on {v.device}; move it there")
    if chunk < 1:
        raise Refused(f"chunk is how many steps share one kept state, at least 1; got {chunk}")


def _shape(v: Tensor) -> tuple[int, ...]:
    return tuple(v.shape)
