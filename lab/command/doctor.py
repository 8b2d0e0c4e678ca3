"""`doctor`: versions, devices, and which back ends are in use and why."""

import importlib.metadata as metadata
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
    """What `backend="auto"` takes here; of a GPU's kernel, why not, and the line that installs it."""
    from lab.ssm import backends

    name, why = backends.chosen(_device(torch).split()[0])
    if name == "cuda":
        return f"{name}: {why}"
    _, kernel = backends.cuda_kernel()
    seen = f"{kernel}, {backends.INSTALL}" if torch.cuda.is_available() else f"{kernel}, torch sees no CUDA device"
    return f"{name}: {why}; {seen}"


def _lab_data() -> str:
    if not (name := os.environ.get("LAB_DATA")):
        return "not set: only embedded sets and downloads"
    if not (folder := Path(name)).is_dir():
        return f"{name} does not exist: create it, correct the path, or unset the variable"
    from lab.data import sets

    here = [f"{call} ({status})" for call, status in sets()["status"].items() if "LAB_DATA" in status]
    return f"{folder}: {', '.join(here) or 'none of the sets that lab knows'}"
