"""The command line, `python -m lab`: `doctor` looks at this machine, `data` lists the sets, `train` fits your cells.

Bad input ends in one sentence on stderr and a non-zero exit. Nothing heavy is imported before the command and its
options are known to be right.
"""

import difflib
import functools
import importlib.metadata as metadata
import importlib.util
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import tyro

from lab.commands import MODELS, Misunderstood


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 where it failed, 2 where the line was not understood."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug, argv = "--debug" in argv, [word for word in argv if word != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if debug else "ignore")
            _chosen(COMMANDS, argv, "python -m lab")()
        return 0
    except SystemExit as stop:  # --help
        return stop.code or 0
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if os.environ.get("RANK", "0") == "0":  # torchrun's other processes fail alike
            print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, Misunderstood) else 1


def doctor() -> None:
    """Versions, devices, and which back ends are in use and why: one line each."""
    import torch

    print(f"lab             {_version('generating-cells')}, in {Path(__file__).parent}")
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


def data() -> None:
    """The data sets: what is here, what can be fetched, from where and under which licence."""
    from lab.data import sets

    table = sets().reset_index()
    size = [
        f"{'any' if cells != cells else format(int(cells), ',')} x {genes:,}"
        for cells, genes in zip(table["cells"].astype(float), table["genes"])
    ]
    columns = {
        "lab.data.": table["call"],
        "cells x genes": size,
        "kind": table["kind"],
        "here": table["status"],
        "licence": table["licence"],
        "source": table["source"],
    }
    width = {name: max(map(len, [name, *map(str, column)])) for name, column in columns.items()}
    for row in [columns, *zip(*columns.values())]:
        print("  ".join(f"{value:{width[name]}}" for name, value in zip(columns, row)).rstrip())
    print(
        "Sets that are not here are downloaded when first called, and checked by hash; or put their files into a "
        "folder and name it in LAB_DATA."
    )


COMMANDS = {"doctor": doctor, "data": data, "train": MODELS}


def _chosen(commands: dict, argv: list[str], prog: str) -> Callable[[], None]:
    """The command that argv names, its options read, ready to run."""
    word, kind = argv[0] if argv else "--help", "command" if commands is COMMANDS else "model"
    if word in ("-h", "--help"):
        to = sys.stdout if argv else sys.stderr
        print(f"usage: {prog} [-h] [--debug] {{{','.join(commands)}}} ...\n", file=to)
        for name, command in commands.items():
            doc = command.__doc__.splitlines()[0] if callable(command) else f"Train a model: {', '.join(command)}."
            print(f"  {name:8} {doc}", file=to)
        print(f"\n{prog} {kind.upper()} --help lists its options; --debug shows tracebacks and warnings.", file=to)
        raise SystemExit(0 if argv else 2)
    if word not in commands:
        near = difflib.get_close_matches(word, commands, 1)
        raise Misunderstood(
            f"{prog} has no {kind} {word!r}; "
            f"{f'did you mean {near[0]}?' if near else 'choose ' + ' or '.join(commands)}"
        )
    if not callable(commands[word]):
        return _chosen(commands[word], argv[1:], f"{prog} {word}")
    command, prog, said = commands[word], f"{prog} {word}", io.StringIO()

    @functools.wraps(command)
    def later(**given):
        return functools.partial(command, **given)

    try:
        with redirect_stderr(said):
            return tyro.cli(later, args=argv[1:], prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise Misunderstood(f"{_unboxed(said.getvalue())}; {prog} --help lists the options") from None


def _unboxed(box: str) -> str:
    """What tyro says in a frame with rules, of UTF-8 or, where stdout has another encoding, of dashes: as one line."""
    parts = [[]]
    for line in (line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))):
        if line and set(line) <= set("─-"):
            parts.append([])
        elif line:
            parts[-1].append(line)
    said = []
    for part in parts if box.startswith("╭") else parts[1:]:  # without a frame the title is a part of its own
        if part and part[0].startswith("Missing from"):
            said.append(f"{part[0]} {', '.join(line for line in part if line.startswith('--'))}")
        elif part and part[0].startswith("Perhaps you meant"):
            said.append(f"perhaps you meant {part[1].split()[0]}")
        elif part and "helptext" not in part[0]:
            text = " ".join(part).rstrip(".")
            said.append(re.sub(r"no type matching (\S+) could be .*? from \[(.*?)\].*", r"\2 is none of \1", text))
    return "; ".join(said)


def _sentence(error: Exception) -> str:
    """What a person can act on: what lab or the system says, a remedy for too little memory, else a request."""
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    text = " ".join(str(error).split()) or type(error).__name__
    if (
        type(error).__name__ in ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError")
        or "DefaultCPUAllocator" in text
    ):
        return "there is not enough memory for this; a smaller --size, fewer --genes or a smaller --k needs less"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror.lower()}; give a place where files can be written"
    if last.tb_frame.f_globals.get("__name__", "").startswith("lab.") or isinstance(error, Misunderstood):
        return text
    return (
        f"unforeseen {type(error).__name__}: {text}; please report it to the book's repository, with what the same "
        "command prints with --debug and what `python -m lab doctor` prints"
    )


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


if __name__ == "__main__":
    sys.exit(main())
