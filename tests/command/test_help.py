"""Help: at once, with every option and every file."""

import subprocess
import sys
import time

import pytest
from command_line import lines

from lab.command import main
from lab.command.folder import SHARED
from lab.command.recipes import found


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "vae", "--help"],
        ["train", "cvae", "--help"],
        ["train", "ddpm", "--help"],
        ["train", "ebm", "--help"],
        ["train", "rssm", "--help"],
        ["train", "gears", "--help"],
        ["sample", "--help"],
        ["embed", "--help"],
        ["predict", "--help"],
        ["report", "--help"],
        ["evaluate", "--help"],
        lines("x", "y", "--lr", "0"),
        lines("x", "y", "--n-latent", "ten"),
        ["sample", "run", "--n", "0", "--out", "x.h5ad"],
        ["embed", "run", "cells.h5ad", "--out", "x.csv"],
        ["predict", "run", "cells.h5ad", "--condition", "gap", "--out", "x.h5ad"],
    ],
)
def test_nothing_heavy_is_imported_before_the_line_is_understood(line):
    code = (
        "import sys; from lab.command import main; main(sys.argv[1:]); "
        "print('heavy:', {'torch', 'numpy', 'pandas', 'scanpy', 'anndata', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert done.stdout.endswith("heavy: set()\n")


@pytest.mark.parametrize("model, recipe", found().items())
def test_help_lists_the_options_that_all_models_share_and_those_of_one_and_the_files(model, recipe, capsys):
    assert main(["train", model, "--help"]) == 0
    said = capsys.readouterr().out
    own, every = said.split("Options of every model:")
    shared = "data out layer genes epochs steps patience size lr validation seed".split()
    assert all(f"--{name} " in every for name in shared)
    assert all(f"  {option.opts[0]}" in own for option in recipe.options)
    for file in (*SHARED, *(["latent.h5ad"] if recipe.embed else ["coordinates.h5ad"] if recipe.sample else [])):
        assert file in said
    for default in ("[default: 128; x>=1]", "(0.001, of a causal-vae 0.01); x>0]", "2000, or all where", "[required]"):
        assert default in " ".join(said.split())


@pytest.mark.parametrize(
    "model, words",
    {
        "vae": "held-out loss",
        "cvae": "run.json keeps",
        "beta-vae": "held-out loss",
        "iwae": "held-out loss",
        "ddpm": "one half where nothing is remembered",
        "flow": "that of coupled pairs is lower",
        "ebm": "told neither depth nor labels",
        "jepa": "`predict --condition gap=TIME` then says where any cells will stand so much later",
        "rssm": "`predict --condition after=TIME` imagines the rows after a time",
        "scgen": "each of which must have cells of its own",
        "cpa": "tells labels from basal codes, beside chance",
        "gears": "must be a gene that is modelled, or occur in the file",
        "causal-vae": "share of the masks that stayed open",
        "perturb-diffusion": "none is the partner of one",
        "bimamba": "the flattened R2 beside it",
        "perturb-flow": "every cell of the perturbations that it shall predict, and half of the controls",
    }.items(),
)
def test_help_says_of_a_model_what_its_options_do_not(model, words, capsys):
    assert main(["train", model, "--help"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("line", [[], ["train"]])
def test_a_line_that_stops_short_is_answered_with_help(line, capsys):
    assert main(line) == 2
    said = capsys.readouterr()
    assert not said.out and f"Usage: {' '.join(['python -m lab', *line])} [OPTIONS]" in said.err


def test_every_command_has_its_line(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    names = ("doctor", "data", "train", "sample", "embed", "predict", "report", "evaluate")
    assert (at := [said.index(f"\n  {name} ") for name in names]) == sorted(at)
    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in found())


def test_help_takes_less_than_half_a_second():
    def seconds():
        start = time.perf_counter()
        assert subprocess.run([sys.executable, "-m", "lab", "--help"], capture_output=True).returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5
