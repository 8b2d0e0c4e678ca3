"""A new family of models is one file: it is found, trained, continued, reopened and drawn from like any other."""

import ast
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from command_line import MODELS, assert_same_results, lines, written

from lab.command import folder, main, recipes

FILE = '''
"""One share of the counts per gene and condition, which begins at that of the training cells."""

import click

from lab.command.front import Real
from lab.command.options import CONDITION

from . import Recipe


def build(known, options):
    import torch
    from torch import nn

    class Profile(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("start", torch.zeros(len(known.genes)))
            self.shift = nn.Parameter(torch.zeros(len(known.genes)))

        def law(self, b):
            return torch.distributions.Poisson(b["log_library"].exp() * (self.start + self.shift).softmax(-1))

    model = Profile()
    if known.batches:
        model.start += sum(b["x"].sum(0) for b in known.batches).add(options["floor"]).log()
    return model


def loss(model, options):
    return lambda b: {"loss": -model.law(b).log_prob(b["x"]).sum(-1).mean()}


def results(model, cells):
    import torch

    loss = torch.cat([-model.law(b).log_prob(b["x"]).sum(-1) for b in cells.tested])
    shares = (model.start + model.shift).softmax(-1).tolist()
    return {"held-out loss": loss.mean().item()}, {"shares.txt": lambda path: path.write_text(str(shares))}


marginal_profile = Recipe(
    build,
    loss,
    results,
    options=(CONDITION, click.Option(["--floor"], type=Real(0), metavar="FLOAT", default=1.0, help="Pseudocount.")),
    help="Train one profile for all cells.",
    sample=lambda model, b: model.law(b).sample(),
)
'''


@pytest.fixture
def new_family(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "profile_of_all.py").write_text(FILE)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path / "recipes")])
    return "marginal-profile"


def test_a_recipe_is_found_by_listing_the_folder(new_family, capsys):
    assert set(recipes.found()) == {new_family, *MODELS}
    assert main(["train", "--help"]) == 0
    assert "marginal-profile  Train one profile for all cells." in capsys.readouterr().out
    assert main(["train", new_family, "--data", "x", "--out", "y", "--floor", "-1"]) == 2


def test_a_family_of_one_file_is_trained_continued_reopened_and_drawn_from(new_family, tmp_path, capsys):
    path = written(tmp_path, n_cells=200, n_genes=50)
    for epochs in ("2", "5"):
        assert main(lines(path, tmp_path / "grown", "--epochs", epochs, model=new_family)) == 0
    assert main(lines(path, tmp_path / "long", "--epochs", "5", model=new_family)) == 0
    assert_same_results(tmp_path / "grown", tmp_path / "long")
    record = json.loads((tmp_path / "long" / "run.json").read_text())
    assert record["files"] == ["shares.txt"] and not (tmp_path / "long" / "latent.h5ad").exists()
    assert record["arguments"]["floor"] == 1.0 and record["results"]["held-out loss"] > 0

    model, record = folder.reopen(tmp_path / "long")
    assert model.start.std() > 0.5  # what it took from the training cells is among its weights
    assert len(record["genes"]) == 50 and "n_latent" not in record["arguments"]

    assert main(["sample", str(tmp_path / "long"), "--n", "500", "--out", str(tmp_path / "new.h5ad")]) == 0
    new, real = (ad.read_h5ad(tmp_path / name).layers["counts"].toarray().mean(0) for name in ("new.h5ad", path.name))
    assert np.abs(np.log(new / real)).max() < 0.3

    capsys.readouterr()
    assert main(["embed", str(tmp_path / "long"), str(path), "--out", str(tmp_path / "z.h5ad")]) == 1
    assert "marginal-profile, which has no latent space" in capsys.readouterr().err


def test_a_file_that_a_family_adds_and_that_is_gone_is_written_again(new_family, tmp_path):
    line = lines(written(tmp_path), tmp_path / "run", "--epochs", "1", model=new_family)
    assert main(line) == 0
    (tmp_path / "run" / "shares.txt").unlink()
    assert main(line) == 0 and (tmp_path / "run" / "shares.txt").exists()


@pytest.mark.parametrize("file", sorted(Path(recipes.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_a_recipe_s_file_imports_nothing_heavy_outside_its_functions(file):
    top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top]
    light = {"click", "functools", "lab.command.front", "lab.command.options", "lab.errors", "", "importlib", "pkgutil"}
    assert set(named) <= light | {"collections.abc", "typing"}
