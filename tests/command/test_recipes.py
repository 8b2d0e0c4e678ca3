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
from lab.errors import Refused

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


def predict(model, cells, record, conditions, seed):
    import anndata as ad
    import torch

    parts = {}
    for name, value in conditions:
        if name != "depth":
            raise Refused(f"{name} is not known; give depth=COUNTS")
        law = model.law({"log_library": torch.full((cells.n_obs, 1), float(value)).log()})
        counts = {"counts": law.sample().numpy(), "seen": cells.layers["counts"]}
        parts[value] = ad.AnnData(layers=counts, obs=cells.obs, var=cells.var)
    return ad.concat(parts, label="depth", index_unique="-", merge="same")


marginal_profile = Recipe(
    build,
    loss,
    results,
    options=(CONDITION, click.Option(["--floor"], type=Real(0), metavar="FLOAT", default=1.0, help="Pseudocount.")),
    help="Train one profile for all cells.",
    sample=lambda model, b: model.law(b).sample(),
    predict=predict,
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
    assert "marginal-profile Train one profile for all cells." in " ".join(capsys.readouterr().out.split())
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


def predicted(run, cells, out, *words):
    assert main(["predict", str(run), str(cells), "--out", str(out), *words]) == 0
    return ad.read_h5ad(out)


def test_a_family_that_predicts_is_given_matched_genes_every_condition_in_order_and_a_seed(
    new_family, tmp_path, capsys
):
    path = written(tmp_path, n_cells=200, n_genes=50)
    assert main(lines(path, run := tmp_path / "run", "--epochs", "1", model=new_family)) == 0
    cells = ad.read_h5ad(path)[:30, np.random.default_rng(0).permutation(50)[:48]].copy()
    cells.write_h5ad(few := tmp_path / "few.h5ad")
    capsys.readouterr()
    words = ["--condition", "depth=900", "--condition", "depth=30"]
    new = predicted(run, few, tmp_path / "new.h5ad", *words)
    assert "2 of the 50 genes" in (said := capsys.readouterr().out) and "for depth=900, depth=30 from 30 cells" in said
    assert list(new.var_names) == (run / "genes.txt").read_text().split()
    absent = list(new.uns["predict"]["genes missing"])
    assert len(absent) == 2 and not new[:, absent].layers["seen"].sum()
    whole = np.tile(cells.layers["counts"].toarray(), (2, 1))
    np.testing.assert_array_equal(new[:, cells.var_names].layers["seen"].toarray(), whole)
    assert list(new.uns["predict"]["condition"]) == ["depth=900", "depth=30"]
    depth = new.layers["counts"].sum(1).reshape(2, 30).mean(1)
    np.testing.assert_allclose(depth, [900, 30], rtol=0.1)
    assert list(new.obs["cell_type"]) == 2 * list(cells.obs["cell_type"])
    again = predicted(run, few, tmp_path / "again.h5ad", *words)
    other = predicted(run, few, tmp_path / "other.h5ad", *words, "--seed", "1")
    np.testing.assert_array_equal(new.layers["counts"], again.layers["counts"])
    assert (new.layers["counts"] != other.layers["counts"]).any()
    assert main(["predict", str(run), str(few), "--condition", "dose=1", "--out", str(tmp_path / "no.h5ad")]) == 1
    assert "dose is not known; give depth=COUNTS" in capsys.readouterr().err and not (tmp_path / "no.h5ad").exists()
    line = [
        "predict",
        str(run),
        str(few),
        "--condition",
        "depth=9",
        "--layout",
        "vcc",
        "--out",
        str(tmp_path / "no.h5ad"),
    ]
    assert main(line) == 1 and "knows no perturbations; leave --layout out" in capsys.readouterr().err


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
    assert set(named) <= light | {"collections.abc", "typing", "lab.command.judging", "coordinates", "perturbation"}
