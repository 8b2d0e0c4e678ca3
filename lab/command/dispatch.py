"""From a line of words to one command, an exit status, and one sentence for whatever goes wrong."""

import dis
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable

import click

from lab.errors import Refused

from . import judging, predicting
from .front import Command, Group
from .options import (
    ASSIGNMENT,
    CELLS,
    DRAWN,
    EVALUATIONS,
    FILE,
    GRADES,
    HELD_OUT,
    LABEL,
    LAYER,
    LEVEL,
    RUN,
    SAMPLER,
    SAMPLES,
    SCALE,
    SECONDS,
    SEED,
    SUBMISSIONS,
    TABLE,
    TRAIN,
    TRAINING,
)
from .recipes import found

NAME = "python -m lab"
SENTENCES = (Refused, ValueError, FloatingPointError)  # what `lab` raises with a sentence that a person can act on
DOCTOR = "Versions, devices, and which back ends are in use and why: one line each."
SETS = "The data sets: what is here, what can be fetched, from where and under which licence."
SAMPLE = """Draw new cells from a finished run: counts, with the noise of counts, and not means.

Depths, and the conditions that you do not name, are those of training cells drawn at random: of those that have the \
levels you name, or of all where none has. The file holds counts in layers['counts'], the conditions and log_library \
(the depth asked for) in obs, the genes by name, and in uns['sample'] what it was drawn from."""
EMBED = """Find where cells stand in the latent space of a finished run: posterior means of any cells with its genes.

Genes are matched by name, in any order. Up to 10 % of the run's may be missing: they are named, and count as 0. The \
file holds your obs and, in obsm['X_vae'], the coordinates."""
REPORT = """Judge drawn cells beside real cells that the model has not seen: a table, a row a measure.

Each row stands between a ceiling, two samples of real cells, and a floor, one expression profile for each label. \
Cells are compared on the genes of SAMPLES.h5ad, as counts or, where no file holds any, as X. No cell of HELD_OUT.h5ad \
may stand, by name, in TRAIN.h5ad."""
NO_SPACE = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
OUT_OF_MEMORY = ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 where it failed, 2 where the line was not understood."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug, argv = "--debug" in argv, [word for word in argv if word != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal has no letters for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if debug else "ignore")
            with root().make_context(NAME, argv) as line:
                line.command.invoke(line)
        return 0
    except click.exceptions.Exit as stop:  # --help
        return stop.exit_code
    except click.UsageError as error:
        return _end(2, f"error: {_misunderstood(error)}")
    except KeyboardInterrupt:
        then = "; the same command goes on from the last checkpoint, if there is one" if argv[:1] == ["train"] else ""
        return _end(130, f"\ninterrupted{then}")
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _end(1, f"error: {_sentence(error)}")


def root() -> Group:
    """The whole command line, with a command for each recipe."""
    every = "Options of every model"
    models = {
        name: Command(name, _later("train", name, one), {f"Options of {name}": one.options, every: TRAINING}, one.help)
        for name, one in found().items()
    }
    train = Group(
        "train",
        "model",
        commands=models,
        help="Train a model on your cells; train MODEL --help lists its options.",
        short_help=f"Train a model: {', '.join(models)}.",
    )
    doctor = Command("doctor", _later("doctor"), {}, DOCTOR)
    sets = Command("data", _later("sets"), {}, SETS)
    sample = Command(
        "sample", _later("sample"), {"Options": (FILE, SAMPLES, LEVEL, SCALE, SAMPLER, EVALUATIONS, SEED)}, SAMPLE, RUN
    )
    embed = Command("embed", _later("embed"), {"Options": (FILE, LAYER)}, EMBED, RUN, CELLS)
    foretell = {"Options": predicting.OPTIONS}, predicting.HELP
    predict = Command("predict", _later("predict"), *foretell, RUN, CELLS)
    judged = (TABLE, TRAIN, LABEL, LAYER, SEED)
    report = Command("report", _later("report"), {"Options": judged}, REPORT, HELD_OUT, DRAWN)
    asked = judging.PREDICTED, judging.TRUTH
    evaluate = Command("evaluate", _later("evaluate"), {"Options": judging.OPTIONS}, judging.HELP, *asked)
    steps = {
        "build": ("Make the student's page and the autograder of one assignment from its source.", {}, ()),
        "gate": ("Prove that the student's files give nothing away, and that the reference scores all.", {}, ()),
        "grade": (
            "Mark a folder of submissions, one .zip or .ipynb a student.",
            {"Options": (GRADES, SECONDS)},
            (SUBMISSIONS,),
        ),
    }
    assign = Group(
        "assign",
        "command",
        commands={
            step: Command(step, _later("assign", step), groups, help, ASSIGNMENT, *more)
            for step, (help, groups, more) in steps.items()
        },
        help="Homework: build it, prove it, mark it.",
    )
    return Group(
        "lab",
        "command",
        commands={one.name: one for one in (doctor, sets, train, sample, embed, predict, report, evaluate, assign)},
        params=[click.Option(["--debug"], is_flag=True, help="With any command: show tracebacks and warnings.")],
        help="The package of the book 'Generating Cells', on your cells; COMMAND --help lists its options.",
    )


def _later(module: str, *given) -> Callable[..., None]:
    """The function of the same name in one of this package's modules, which is imported when it is called."""
    return lambda **options: getattr(importlib.import_module(f"{__package__}.{module}"), module)(*given, **options)


def _end(status: int, said: str) -> int:
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes fail alike
        print(said, file=sys.stderr)
    return status


def _misunderstood(error: click.UsageError) -> str:
    """What click says of a line, what was probably meant, and where to read more: one line."""
    said = error.format_message()
    if isinstance(error, click.NoSuchOption):
        near = f"; perhaps you meant {error.possibilities[0]}" if error.possibilities else ""
        said = f"there is no option {error.option_name}{near}"
    usage = error.ctx.command_path if error.ctx else NAME
    return f"{' '.join(said.split()).rstrip('.')}; {usage} --help lists the options"


def _sentence(error: Exception) -> str:
    """What a person can act on: what lab or the system says, a remedy for too little memory, else a request."""
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ in OUT_OF_MEMORY or "DefaultCPUAllocator" in text:
        return "there is not enough memory for this; a smaller --size, fewer --genes or a smaller --k needs less"
    if any(full in text for full in NO_SPACE):
        return "the disk is full, or your share of it; free space, or name a place on another, such as another --out"
    if isinstance(error, OSError) and error.strerror:
        denied = isinstance(error, PermissionError)
        remedy = "ask for permission, or name another place" if denied else "give a place where files can be written"
        return f"{error.filename or 'a file'}: {error.strerror.lower()}; {remedy}"
    if type(error) in SENTENCES and _raised_by_lab(error):
        return text
    return (
        f"unforeseen {type(error).__name__}: {text}; please report it to the book's repository, with what the same "
        "command prints with --debug and what `python -m lab doctor` prints"
    )


def _raised_by_lab(error: Exception) -> bool:
    """Whether a `raise` of ours is where the error began, and not a call into what other packages compile."""
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    raised = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and last.tb_frame.f_globals.get("__name__", "").startswith("lab.")
