"""Which code runs a scan, and why: nothing here imports numba, triton or mamba_ssm before a scan wants them.

The kernels for CUDA are the extra `cuda`: source packages, which INSTALL builds where torch has CUDA and nowhere else.
"""

import importlib.util
from functools import cache

import torch

from lab.errors import Refused

BACKENDS = ("auto", "loop", "torch", "numba", "cuda")
INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation causal-conv1d mamba-ssm"


@cache
def cuda_kernel() -> tuple[object, str]:
    """`mamba_ssm`'s scan or None, and a reason. It can be importable without its kernel, and raise when called."""
    if not importlib.util.find_spec("mamba_ssm"):
        return None, "mamba_ssm is not installed"
    try:
        from mamba_ssm.ops import selective_scan_interface as theirs
    except Exception as error:  # an ABI that does not match is an ImportError, a missing driver is not
        said = str(error).splitlines()
        return None, f"mamba_ssm cannot be imported ({said[0] if said else type(error).__name__})"
    if theirs.selective_scan_cuda is None:
        return None, "mamba_ssm is installed without its CUDA kernel"
    return theirs.selective_scan_fn, "mamba_ssm is installed with its CUDA kernel"


@cache
def causal_conv():
    """`causal_conv1d`'s convolution, or None."""
    try:
        from causal_conv1d import causal_conv1d_fn
    except Exception:  # as above
        return None
    return causal_conv1d_fn


def chosen(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, n_state: int = 16
) -> tuple[str, str]:
    """The back end that "auto" takes on a device, and why: ("numba", "numba is installed").

    "cuda" where `mamba_ssm` has its kernel, which knows neither float64 nor more than 256 states; "numba" on the
    processor; "torch" everywhere else.
    """
    device = torch.device(device)
    if device.type == "cuda":
        kernel, why = cuda_kernel()
        if kernel is None:
            return "torch", why
        if dtype == torch.float64 or n_state > 256:
            return "torch", "mamba_ssm's kernel knows neither float64 nor more than 256 states"
        return "cuda", why
    if device.type == "cpu" and importlib.util.find_spec("numba"):
        return "numba", "numba is installed"
    return "torch", "numba is not installed" if device.type == "cpu" else f"there is no kernel for {device.type}"


def known(backend: str) -> str:
    """`backend`. Raises `Refused` for a name that is none."""
    if backend not in BACKENDS:
        raise Refused(f"backend is one of {', '.join(BACKENDS)}; got {backend!r}")
    return backend


def checked(backend: str, device: torch.device, dtype: torch.dtype, n_state: int) -> str:
    """`backend`, "auto" resolved. Raises `Refused` for a name that is none, and for one that cannot run here."""
    known(backend)
    auto, why = chosen(device, dtype, n_state) if backend in ("auto", "numba", "cuda") else (backend, "")
    if backend in ("numba", "cuda") and backend != auto:
        where = f"these tensors are on {device.type}" if device.type != {"numba": "cpu"}.get(backend, backend) else why
        raise Refused(f"backend={backend!r} cannot run here ({where}); take 'auto', which takes {auto!r}")
    return auto
