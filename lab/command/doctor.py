"""`doctor`: versions, devices, and which back ends are in use and why."""

import importlib.metadata as metadata
import importlib.util
import os
import platform
from pathlib import Path


def doctor() -> None:
    """Versions, devices, and which back ends are in use and why: one line each."""
    import torch

    print(f"lab             {_version('generating-cells')}, in {Path(__file__).parents[1]}")
    print(f"python          {platform.python_version()}, {platform.platform()}")
    for package in "torch numpy scipy pandas scikit-learn anndata scanpy accelerate safetensors numba".split():
        print(f"{package:15} {_version(package)}")
    print(f"cpu             {torch.get_num_threads()} threads (OMP_NUM_THREADS sets them), {os.cpu_count()} cores")
    print(f"cuda            {_cuda(torch)}")
    print(f"mps             {'available' if torch.backends.mps.is_available() else 'not available'}")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    print(
        f"training        on {_device(torch)}, {processes} process{'es' * (processes > 1)}, "
        f"{os.environ.get('ACCELERATE_MIXED_PRECISION', 'no')} mixed precision, fused AdamW, by accelerate"
    )
    print(f"selective scan  {_scan(torch)}")
    print(f"LAB_DATA        {_lab_data()}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device(torch) -> str:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu (ACCELERATE_USE_CPU is set)"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _cuda(torch) -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return f"{torch.version.cuda}, but torch finds no device" if torch.version.cuda else "not in this build of torch"


def _scan(torch) -> str:
    """mamba_ssm can be importable without its kernel: only `selective_scan_cuda is not None` says that it works."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_cuda

        why = "mamba_ssm is installed with" + ("out" if selective_scan_cuda is None else "") + " its CUDA kernel"
    except Exception as error:  # an ABI mismatch is an ImportError, a missing driver is not
        selective_scan_cuda, why = None, "mamba_ssm is not installed"
        if importlib.util.find_spec("mamba_ssm"):
            why = f"mamba_ssm cannot be imported ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if selective_scan_cuda is not None and torch.cuda.is_available():
        choice = "cuda"
    else:
        choice = "numba" if importlib.util.find_spec("numba") else "torch"
        why += "" if torch.cuda.is_available() else ", torch sees no CUDA device"
    unused = "" if importlib.util.find_spec("lab.ssm") else "; nothing in this version of lab uses it"
    return f"{choice}: {why}{unused}"


def _lab_data() -> str:
    if not (name := os.environ.get("LAB_DATA")):
        return "not set: only embedded sets and downloads"
    if not (folder := Path(name)).is_dir():
        return f"{name} does not exist: create it, correct the path, or unset the variable"
    from lab.data import sets

    here = [f"{call} ({status})" for call, status in sets()["status"].items() if "LAB_DATA" in status]
    return f"{folder}: {', '.join(here) or 'none of the sets that lab knows'}"
