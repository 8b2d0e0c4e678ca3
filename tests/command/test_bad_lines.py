"""A line that cannot be run ends in one sentence, and nothing is written; one that nobody foresaw says so."""

import os
import subprocess
import sys
import types
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import torch
from command_line import QUICK, lines, simulated, written
from safetensors import SafetensorError
from screens import screen, unchanged

from lab import data
from lab.command import main, parts
from lab.command.recipes import found
from lab.errors import Refused
from lab.train import checkpoint


def dense(change):
    """The counts as a dense float X, after `change(x)`."""

    def apply(cells):
        x = cells.layers["counts"].toarray().astype(float)
        return ad.AnnData(changed if (changed := change(x)) is not None else x, obs=cells.obs, var=cells.var)

    return apply


def put(value):
    def change(x):
        x[3, 4] = value

    return dense(change)


def stored(value):
    """One stored value of the sparse counts replaced."""

    def change(cells):
        cells.layers["counts"] = cells.layers["counts"].astype(float)
        cells.layers["counts"].data[5] = value

    return change


def train(folder, path=None, *options, out=None):
    return lines(path or written(folder), out or folder / "run", *QUICK, *options)


def train_x(folder, change):
    return train(folder, written(folder, change), "--layer", "X")


def option(*words, model="vae", small=QUICK):
    return lambda folder: lines(written(folder), folder / "run", *small, *words, model=model)


def diffused(*words, model="ddpm"):
    """A model of coordinates on small cells."""
    return lambda folder, n_cells=20: lines(
        written(folder, n_cells=n_cells), folder / "run", "--epochs", "1", "--n-hidden", "8", *words, model=model
    )


def undirected(*words, model="ddpm"):
    """A finished one without conditions, drawn from with these words."""

    def make(folder):
        assert main(diffused(model=model)(folder)) == 0
        return sample(folder, *words)

    return make


def unplaced(folder):
    """A finished ddpm, asked for a place in its latent space."""
    assert main(diffused()(folder)) == 0
    return embed(folder, folder / "cells.h5ad")


def conditioned(*columns, change=None):
    """cvae on cells whose obs `change(obs)` has altered."""

    def make(folder):
        path = written(folder, lambda cells: change and change(cells.obs))
        return lines(
            path, folder / "run", *QUICK, *(word for name in columns for word in ("--condition", name)), model="cvae"
        )

    return make


def column(name, values):
    return lambda obs: obs.insert(0, name, values)


def reserved(folder):
    """A column that anndata reads and does not write: SeuratDisk leaves such."""
    with h5py.File(path := written(folder), "r+") as file:
        file["obs"].move("_index", "cell")
        file["obs"].move("batch", "_index")
        file["obs"].attrs.update({"_index": "cell", "column-order": ["cell_type", "_index"]})
    return path


def rare(obs):
    """A label of the held-out cells alone."""
    obs["batch"] = np.where(parts.held_out_of(obs.index, 0.1, 0), "day 9", "day 0")


def file_of(content, name="cells.h5ad"):
    def make(folder):
        (folder / name).write_bytes(content)
        return train(folder, folder / name)

    return make


def truncated(folder):
    path = written(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return train(folder, path)


def not_anndata(folder):
    with h5py.File(folder / "cells.h5ad", "w") as file:
        file["numbers"] = np.arange(5)
    return train(folder, folder / "cells.h5ad")


def textual(folder):
    path = written(folder, dense(lambda x: None))
    with h5py.File(path, "a") as file:
        del file["X"]
        file["X"] = np.full((20, 10), b"many")
        file["X"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    return train(folder, path, "--layer", "X")


def below_a_file(folder):
    (folder / "file").write_text("")
    return train(folder, out=folder / "file" / "run")


def onto_a_file(folder):
    (folder / "run").write_text("mine")
    return train(folder)


def foreign(folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("mine")
    return train(folder)


def begun(folder, *then, damage=lambda run: None):
    """A run that reached its end, then `damage`, then the command again with the options `then`."""
    line = train(folder, None, "--epochs", "2")
    assert main(line) == 0
    damage(folder / "run")
    return [*line, *then]


def again(*then, damage=lambda run: None):
    return lambda folder: begun(folder, *then, damage=damage)


def other_cells(run):
    written(run.parent, lambda cells: cells[::-1].copy())
    (run / "metrics.csv").unlink()


def shortened(name):
    def damage(run):
        file = next((run / "checkpoint").glob(f"step-*/{name}"))
        file.write_bytes(file.read_bytes()[:100])
        (run / "metrics.csv").unlink()

    return damage


def wrong_hash(folder):
    (folder / "pbmc3k_filtered_gene_bc_matrices.tar.gz").write_bytes(b"another version")
    os.environ["LAB_DATA"] = str(folder)  # conftest unsets it for the next test
    return train(folder, "pbmc3k")


def with_environment(name, value, *line):
    def make(folder):
        os.environ[name] = value
        return list(line) or train(folder)

    return make


def nearly_empty(cells):
    """A cell whose only counts are in the gene that varies least."""
    counts = cells.layers["counts"].tolil()
    counts[:, 0] = 3
    counts[7] = 0
    counts[7, 0] = 3
    cells.layers["counts"] = counts.tocsr()


def ambiguous(cells):
    """Counts in raw, and others in X."""
    counts = cells.layers.pop("counts").toarray()
    cells.raw = ad.AnnData(counts, cells.obs, cells.var)
    cells.X = 2 * counts


def without_counts(cells):
    counts = cells.layers["counts"].toarray()
    counts[7] = 0
    cells.layers["counts"] = counts


def twice(cells):
    cells.var_names = ["gene-0", "gene-0", *cells.var_names[2:]]


def sample(folder, *then):
    return ["sample", str(folder / "run"), "--out", str(folder / "new.h5ad"), *then]


def embed(folder, cells, *then):
    return ["embed", str(folder / "run"), str(cells), "--out", str(folder / "new.h5ad"), *then]


def predict(folder, cells, *then):
    return ["predict", str(folder / "run"), str(cells), "--out", str(folder / "new.h5ad"), *then]


def run_of(command, *then, damage=lambda run: None, cells=lambda folder: folder / "cells.h5ad"):
    """A finished run, then `damage` (a file's name: it is removed), then a command on it."""

    def make(folder):
        begun(folder, damage=damage if callable(damage) else lambda run: (run / damage).unlink())
        if command == "sample":
            return sample(folder, *then)
        return {"embed": embed, "predict": predict}[command](folder, cells(folder), *then)

    return make


def series(change=None, *words):
    """rssm on twenty small cells, ten wells at two hours, whose obs `change(obs)` has altered."""

    def make(folder):
        path = written(folder, lambda cells: change and change(cells.obs))
        told = ["--track", "well", "--time", "hour", *words]
        return lines(path, folder / "run", *QUICK, *told, model="rssm")

    return make


def imagined(*words, change=lambda cells: None):
    """A finished rssm, told doses, and a prediction of the same cells after a change."""

    def make(folder):
        assert main(series(column("dose", 1.0), "--action", "dose")(folder)) == 0
        dosed = lambda cells: cells.obs.insert(0, "dose", 1.0) or change(cells)
        return predict(folder, written(folder, dosed, name="more.h5ad"), *words)

    return make


def expected(*words, told=("--track", "well", "--time", "hour", "--action", "dose")):
    """A finished jepa, and a prediction of the same cells, told doses."""

    def make(folder):
        path = written(folder, lambda cells: cells.obs.insert(0, "dose", 1.0))
        assert main(lines(path, folder / "run", "--epochs", "1", *told, model="jepa")) == 0
        return predict(folder, path, *words)

    return make


def at(name, row, value):
    def change(obs):
        obs[name] = obs[name].astype(float if isinstance(value, float) else object)
        obs.iloc[row, obs.columns.get_loc(name)] = value
        if isinstance(value, str):
            obs[name] = obs[name].astype(str)

    return change


def report(held_out=None, samples=None, *then, out="judged"):
    """A line that judges, of files that are 60 simulated cells, each after its change."""

    def make(folder):
        of = (written(folder, change, 60, name=f"{name}.h5ad") for name, change in (("a", held_out), ("b", samples)))
        train = ["--train", str(folder / "a.h5ad")] if "--train" in then else []
        words = [word for word in then if word != "--train"]
        return ["report", *map(str, of), "--out", str(folder / out), *train, *words]

    return make


def treated(*words, model="cpa", change=None):
    """A model of perturbations on small cells, of which day 0 is the control."""
    size = ["--epochs", "1", "--n-hidden", "8"]
    told = [] if "--control" in words else ["--control", "day 0"]
    return lambda folder: lines(
        written(folder, change), folder / "run", *size, "--by", "batch", *told, *words, model=model
    )


def sequenced(word, value):
    """BiMamba on such cells, and tables: of other genes, without starts, of other perturbations, in words."""
    tables = {
        "other.csv": "symbol,chromosome,start\nTP53,17,7\n",
        "short.csv": "symbol,chromosome\ngene-1,17\n",
        "table.csv": "name,f\nday 7,1\n",
        "words.csv": "name,f\nday 1,much\n",
    }

    def make(folder):
        for name, text in tables.items():
            (folder / name).write_text(text)
        told = str(folder / value) if value in tables else value
        size = ["--epochs", "1", "--control", "day 0", "--by", "batch", "--n-pathways", "0", "--width", "8"]
        return lines(written(folder), folder / "run", *size, word, told, model="bimamba")

    return make


def unheard(folder):
    """A sequence of genes, asked for what is none of them."""
    assert main(sequenced("--head", "linear")(folder)) == 0
    control = written(folder, lambda c: c[c.obs["batch"] == "day 0"].copy(), name="more.h5ad")
    return predict(folder, control, "--condition", "batch=drug")


def foretold(*words, model="cpa", with_=(), trained=None, change=lambda c: c[c.obs["batch"] == "day 0"].copy()):
    """One that was `trained` on changed cells, asked to predict from cells after their change: by default controls."""

    def make(folder):
        assert main(treated(*with_, model=model, change=trained)(folder)) == 0
        return predict(folder, written(folder, change, name="more.h5ad"), *words)

    return make


def dosed(values):
    return lambda cells: column("dose", values)(cells.obs)


def totalled(cells):
    cells.obs["n_counts"] = 900.0
    return cells[cells.obs["batch"] == "day 0"].copy()


def apart(cells):
    """Of type A there are only controls, and of B none."""
    cells.obs["cell_type"] = np.where(cells.obs["batch"] == "day 0", "A", "B")


def judged(side=None, change=None, *then, out="judged"):
    """A line that judges predicted perturbations, of which one file's cells were changed; FILE in `then` is there."""

    def make(folder):
        s = screen(n=4, genes=40, cells=12, controls=12)
        sides = {"predicted": unchanged(s), "truth": s.cells, "control": s.a, "truth-control": s.b}
        if side:
            changed = change(sides[side])
            sides[side] = sides[side] if changed is None else changed
        for name, cells in sides.items():
            cells.write_h5ad(folder / f"{name}.h5ad")
        (folder / "FILE").write_text("P0\tmany\n")
        files = {name: str(folder / f"{name}.h5ad") for name in sides}
        sides = ["--control", files["control"], "--truth-control", files["truth-control"]]
        more = [str(folder / word) if word == "FILE" or word.endswith(".h5ad") else word for word in then]
        return ["evaluate", files["predicted"], files["truth"], *sides, "--out", str(folder / out), *more]

    return make


def logged(cells):
    cells.X = np.log1p(cells.layers.pop("counts").toarray())


def torn(cells):
    logged(cells)
    cells.X[3, 4] = np.nan


def halved(name):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-100])


def fewer_genes(run):
    (run / "genes.txt").write_text("gene-0\ngene-1\n")


def renamed(run):
    (run / "run.json").write_text((run / "run.json").read_text().replace('"model": "vae"', '"model": "gan"'))


BAD = {  # what is wrong: (the command line, words of the sentence)
    "log-normalised X": (lambda f: train_x(f, dense(np.log1p)), "log-normalised"),
    "scaled X": (lambda f: train_x(f, dense(lambda x: x - x.mean(0))), "negative"),
    "a layer that is missing": (option("--layer", "umi"), "no layer 'umi'"),
    "no counts anywhere": (lambda f: train(f, written(f, dense(np.log1p))), "X holds no integers; name the layer"),
    "two matrices of counts that disagree": (lambda f: train(f, written(f, ambiguous)), "--layer raw or --layer X"),
    "a raw that is missing": (option("--layer", "raw"), "no raw"),
    "NaN": (lambda f: train_x(f, put(np.nan)), "NaN"),
    "NaN in a sparse matrix": (lambda f: train(f, written(f, stored(np.nan))), "NaN"),
    "infinity": (lambda f: train_x(f, put(np.inf)), "infinite"),
    "a negative count": (lambda f: train_x(f, put(-1)), "negative"),
    "a fraction in a sparse matrix": (lambda f: train(f, written(f, stored(2.5))), "2.5"),
    "a count above 2^31": (lambda f: train_x(f, put(3e9)), "3e+09"),
    "complex numbers": (lambda f: train_x(f, dense(lambda x: x + 1j)), "complex"),
    "words for numbers": (textual, "not numbers"),
    "a cell without counts": (lambda f: train_x(f, dense(lambda x: x * (np.arange(20) != 3)[:, None])), "1 of 20"),
    "a cell without counts in the genes chosen": (
        lambda f: train(f, written(f, nearly_empty), "--genes", "3"),
        "among the 3 most variable",
    ),
    "gene names twice": (lambda f: train(f, written(f, lambda c: setattr(c, "var_names", list(10 * "g")))), "name 'g'"),
    "cell names twice": (lambda f: train(f, written(f, lambda c: setattr(c, "obs_names", list(20 * "c")))), "name 'c'"),
    "no genes": (lambda f: train(f, written(f, lambda c: c[:, []].copy())), "no genes"),
    "no cells": (lambda f: train(f, written(f, lambda c: c[[]].copy())), "no cells"),
    "one cell": (lambda f: train(f, written(f, lambda c: c[:1].copy())), "at least two cells"),
    "a fraction that holds out no cell": (option("--validation", "0.01"), "none to hold out"),
    "X absent": (lambda f: train(f, None, "--layer", "X"), "X is empty"),
    "truncated .h5ad": (truncated, "truncated or damaged"),
    "an .h5ad of no bytes": (file_of(b""), "not an .h5ad"),
    "text named .h5ad": (file_of(b"gene,count\nA,1\n"), "not an .h5ad"),
    "a table": (file_of(b"gene,count\nA,1\n", "cells.csv"), "is not an .h5ad"),
    "HDF5 of something else": (not_anndata, "holds no AnnData"),
    "no such file": (lambda f: train(f, f / "none.h5ad"), "there is no file"),
    "a folder for a file": (lambda f: train(f, f), "is a folder"),
    "a set of no such name": (lambda f: train(f, "pbcm"), "no data set pbcm"),
    "a set that is not counts": (lambda f: train(f, "digits"), "no counts but ink"),
    "a published file of another version": (wrong_hash, "not the published"),
    "LAB_DATA does not exist": (with_environment("LAB_DATA", "/nowhere", "data"), "LAB_DATA=/nowhere"),
    "more genes than there are": (option("--genes", "11"), "there are 10"),
    "no genes asked": (option("--genes", "0"), "'--genes': 0 is not in the range x>=1"),
    "genes in words": (option("--genes", "many"), "'many' is not a valid whole number, nor the word all"),
    "no latent space": (option("--n-latent", "0"), "'--n-latent': 0 is not in the range x>=1"),
    "no hidden units": (option("--n-hidden", "-8"), "'--n-hidden': -8 is not in the range x>=1"),
    "no epochs": (option("--epochs", "0"), "'--epochs': 0 is not in the range x>=1"),
    "no steps": (option("--steps", "0"), "'--steps': 0 is not in the range x>=1"),
    "no patience": (option("--patience", "0"), "'--patience': 0 is not in the range x>=1"),
    "minibatches of no cells": (option("--size", "0"), "'--size': 0 is not in the range x>=1"),
    "minibatches that two processes cannot share": (
        with_environment("WORLD_SIZE", "2", *lines("pbmc", "run", "--size", "5")),
        "multiple of 2",
    ),
    "learning rate 0": (option("--lr", "0"), "'--lr': 0.0 is not in the range x>0"),
    "learning rate below 0": (option("--lr", "-0.1"), "'--lr': -0.1 is not in the range x>0"),
    "learning rate NaN": (option("--lr", "nan"), "'--lr': nan is not a finite number"),
    "a learning rate that explodes": (option("--lr", "1e30", "--epochs", "5"), "lower lr"),
    "nothing held out": (option("--validation", "0"), "'--validation': 0.0 is not in the range 0<x<1"),
    "everything held out": (option("--validation", "1"), "'--validation': 1.0 is not in the range 0<x<1"),
    "a negative seed": (option("--seed", "-1"), "'--seed': -1 is not in the range 0<=x<=9223372036854775807"),
    "a seed beyond 64 bits": (option("--seed", str(2**64)), "'--seed': 18446744073709551616 is not in the range"),
    "a word for a number": (option("--n-latent", "ten"), "'--n-latent': 'ten' is not a valid whole number"),
    "an option without its value": (option("--n-latent"), "'--n-latent' requires an argument"),
    "an unknown option": (option("--n-latnt", "3"), "perhaps you meant --n-latent"),
    "a condition that is missing": (conditioned("tissue"), "no column 'tissue'; it has: cell_type, batch"),
    "a condition in numbers": (conditioned("age", change=column("age", np.arange(20) / 7)), "pandas.cut"),
    "a condition in codes": (conditioned("lane", change=column("lane", np.arange(20) % 2)), "astype('category')"),
    "a condition with NaN": (conditioned("lane", change=column("lane", [None, *9 * "a", *10 * "b"])), "missing for 1"),
    "a condition with one label and missing values": (
        conditioned("drug", change=column("drug", [*10 * [None], *10 * ["stim"]])),
        "obs['drug'] is missing for 10 of 20 cells; label or remove them",
    ),
    "obs that no result could hold": (lambda f: train(f, reserved(f)), "obs['_index'] cannot be written, and what"),
    "an embedding with obs that no result could hold": (
        run_of("embed", cells=lambda f: reserved(f)),
        "del adata.obs['_index']",
    ),
    "a label among held-out cells alone": (conditioned("batch", change=rare), "2 cells with obs['batch'] = 'day 9'"),
    "a label for every cell": (conditioned("name", change=column("name", list("abcdefghijklmnopqrst"))), "held out"),
    "one label for all": (conditioned("lane", change=column("lane", "one")), "'one' in every cell"),
    "a condition twice": (conditioned("batch", "cell_type", "batch"), "'batch' is named more than once"),
    "no condition": (conditioned(), "train vae"),
    "a condition named x": (conditioned("x", change=column("x", 20 * "a")), "rename that obs column"),
    "a condition named log_library": (conditioned("log_library"), "rename that obs column"),
    "a negative beta": (option("--beta", "-1", model="beta-vae"), "'--beta': -1.0 is not in the range x>=0"),
    "an infinite beta": (option("--beta", "inf", model="beta-vae"), "'--beta': inf is not a finite number"),
    "a negative warm-up": (option("--warm-up", "-1", model="beta-vae"), "'--warm-up': -1 is not in the range x>=0"),
    "no samples": (option("--k", "0", model="iwae"), "'--k': 0 is not in the range x>=1"),
    "more samples than fit": (option("--k", "10000000000", model="iwae"), "a smaller --k needs less"),
    "a learning rate that iwae cannot take": (option("--lr", "0", model="iwae"), "'--lr': 0.0 is not in the range x>0"),
    "more coordinates than genes": (diffused("--coordinates", "11"), "--coordinates 11, but there are 10 genes"),
    "more coordinates than cells": (
        lambda f: diffused("--coordinates", "10")(f, n_cells=11),
        "--coordinates 10: 10 cells have at most 9 components; take fewer",
    ),
    "coordinates below none": (diffused("--coordinates", "-1"), "'--coordinates': -1 is not in the range x>=0"),
    "a schedule that nobody knows": (diffused("--schedule", "sigmoid"), "'sigmoid' is not one of 'cosine', 'vp'"),
    "a prediction that nobody knows": (diffused("--predicts", "noise"), "'noise' is not one of 'eps', 'x0'"),
    "a preset that nobody knows": (diffused("--preset", "huge"), "'huge' is not one of 'small', 'large'"),
    "a width that heads cannot share": (
        diffused("--preset", "large", "--n-hidden", "12"),
        "--n-hidden 12 cannot be shared by eight heads of attention; give a multiple of 8",
    ),
    "a flow with more coordinates than genes": (
        diffused("--coordinates", "11", model="flow"),
        "but there are 10 genes",
    ),
    "a flow with a path of its own": (diffused("--schedule", "vp", model="flow"), "no option --schedule"),
    "an energy with more coordinates than cells": (
        lambda f: diffused("--coordinates", "10", model="ebm")(f, n_cells=11),
        "--coordinates 10: 10 cells have at most 9 components; take fewer",
    ),
    "an energy told a column": (diffused("--condition", "batch", model="ebm"), "no option --condition"),
    "chains that never move": (diffused("--chain-steps", "0", model="ebm"), "'--chain-steps': 0 is not in the range"),
    "chains that stand still": (
        diffused("--step-size", "0", model="ebm"),
        "'--step-size': 0.0 is not in the range x>0",
    ),
    "chains that run away": (diffused("--step-size", "1e9", model="ebm"), "a smaller --step-size than 1e+09"),
    "a learning rate with which a flow explodes": (diffused("--lr", "1e30", "--epochs", "5", model="flow"), "lower lr"),
    "a learning rate with which an energy explodes": (
        diffused("--lr", "1e30", "--epochs", "5", model="ebm"),
        "lower lr",
    ),
    "a learning rate with which diffusion explodes": (diffused("--lr", "1e30", "--epochs", "5"), "lower lr"),
    "diffusion told a column that is missing": (diffused("--condition", "tissue"), "no column 'tissue'"),
    "a scale below none": (lambda f: sample(f, "--scale", "-1"), "'--scale': -1.0 is not in the range x>=0"),
    "an infinite scale": (lambda f: sample(f, "--scale", "inf"), "'--scale': inf is not a finite number"),
    "a scale for a vae": (run_of("sample", "--scale", "2"), "a vae, which knows no --scale, as ddpm and flow do"),
    "a scale without labels": (
        undirected("--scale", "2"),
        "a ddpm that is told no conditions, so that --scale has none",
    ),
    "a scale for an energy": (undirected("--scale", "2", model="ebm"), "an ebm, which knows no --scale"),
    "a sampler for a vae": (run_of("sample", "--sampler", "heun"), "in one way only; leave --sampler out"),
    "how to draw from diffusion": (
        undirected("--sampler", "hmc", "--evaluations", "50"),
        "a ddpm, which is drawn from in one way only; leave --sampler and --evaluations out",
    ),
    "a sampler that nobody knows": (lambda f: sample(f, "--sampler", "walk"), "'walk' is not one of 'heun', 'euler'"),
    "a sampler of another model": (
        undirected("--sampler", "hmc", model="flow"),
        "a flow, which is drawn from by heun or euler or dopri, not by hmc; name one of these",
    ),
    "no evaluations": (lambda f: sample(f, "--evaluations", "0"), "'--evaluations': 0 is not in the range x>=1"),
    "half a step of heun": (
        undirected("--evaluations", "1", model="flow"),
        "heun takes 2 evaluations a step, more than",
    ),
    "dopri told how many": (
        undirected("--sampler", "dopri", "--evaluations", "9", model="flow"),
        "dopri finds how many evaluations it needs; leave --evaluations out",
    ),
    "half a step of hmc": (
        undirected("--sampler", "hmc", "--evaluations", "9", model="ebm"),
        "hmc takes 10 evaluations a step, more than --evaluations 9; give 10 or more",
    ),
    "a level of an energy": (undirected("--condition", "batch=day 1", model="ebm"), "it is told no conditions"),
    "an embedding by diffusion": (unplaced, "holds a ddpm, which has no latent space; train one that has, such as vae"),
    "vae with beta": (option("--beta", "2"), "no option --beta"),
    "a stray word": (option("stray"), "'stray' belongs to no option"),
    "several conditions to one option": (
        option("--condition", "batch", "cell_type", model="cvae"),
        "'cell_type' belongs to no option; an option takes one value and is repeated for more: --condition cell_type",
    ),
    "the option that took several conditions": (
        option("--conditions", "batch", "cell_type", "--lr", "0.01", model="cvae"),
        "repeated for more: --condition batch --condition cell_type; python -m lab train cvae --help",
    ),
    "the option that took several conditions, with none": (
        option("--conditions", model="cvae"),
        "repeated for more: --condition NAME;",
    ),
    "conditions of a model that has none": (option("--condition", "batch"), "no option --condition;"),
    "no data": (lambda f: ["train", "vae", "--out", str(f / "run")], "Missing option '--data'"),
    "an unknown command": (lambda f: ["trian"], "no command 'trian'; did you mean train?"),
    "an unknown model": (lambda f: ["train", "gan"], f"choose {' or '.join(found())}"),
    "an option that doctor lacks": (lambda f: ["doctor", "--loud"], "no option --loud; python -m lab doctor --help"),
    "out is a file": (onto_a_file, "is a file"),
    "out below a file": (below_a_file, "no folder"),
    "out in a folder that is missing": (lambda f: train(f, out=f / "none" / "run"), "no folder"),
    "out where nothing can be written": (lambda f: train(f, out="/proc/run"), "/proc/run"),
    "out is somebody else's": (foreign, "holds no run"),
    "a run of another model": (lambda f: ["train", "iwae", *begun(f)[2:]], "model = vae, not iwae"),
    "a run with other settings": (again("--n-latent", "3"), "n_latent = 2, not 3"),
    "a run on other cells": (again(damage=other_cells), "other cells"),
    "a run that is longer already": (again("--epochs", "1"), "already at step 2"),
    "a checkpoint whose state is damaged": (again(damage=shortened("state.pt")), "damaged"),
    "a checkpoint whose weights are damaged": (again(damage=shortened("model.safetensors")), "damaged"),
    "a run of a version without depths, gone on with another layer": (
        again("--layer", "X", damage=lambda run: (run / "depths.csv").unlink()),
        "layer = counts, not X",
    ),
    "a run.json that is damaged": (again(damage=lambda run: (run / "run.json").write_text("{")), "holds no run"),
    "samples of no run": (lambda f: sample(f), "is no folder of a run"),
    "samples of a run that has not finished": (run_of("sample", damage="model.safetensors"), "is not finished"),
    "samples of weights that are damaged": (run_of("sample", damage=halved("model.safetensors")), "is damaged"),
    "samples of weights that are another's": (run_of("sample", damage=fewer_genes), "is damaged, or another model's"),
    "samples of a model that nobody knows": (run_of("sample", damage=renamed), "a model 'gan', and this version"),
    "no cells to draw": (lambda f: sample(f, "--n", "0"), "'--n' / '--samples': 0 is not in the range x>=1"),
    "samples without a file to write": (lambda f: ["sample", str(f)], "Missing option '--out'"),
    "samples onto a file that exists": (lambda f: sample(f, "--out", str(written(f))), "exists already"),
    "samples into a table": (lambda f: sample(f, "--out", str(f / "x.csv")), "x.csv is not named .h5ad"),
    "samples into a folder that is missing": (
        lambda f: sample(f, "--out", str(f / "no" / "x.h5ad")),
        "there is no fol",
    ),
    "samples without a run": (lambda f: ["sample", "--out", str(f / "new.h5ad")], "Missing argument 'DIR'"),
    "a condition without its level": (lambda f: sample(f, "--condition", "batch"), "'batch' names no level"),
    "two levels of one condition": (
        lambda f: sample(f, *2 * ("--condition", "batch=day 1")),
        "'batch' is named more than once",
    ),
    "a level, where the model is told nothing": (run_of("sample", "--condition", "batch=day 1"), "told no conditions"),
    "an embedding in no run": (lambda f: embed(f, written(f)), "is no folder of a run"),
    "an embedding of no file": (run_of("embed", cells=lambda f: f / "none.h5ad"), "there is no file"),
    "an embedding onto a file that exists": (lambda f: embed(f, "x", "--out", str(written(f))), "exists already"),
    "an embedding of log-normalised cells": (
        run_of("embed", cells=lambda f: written(f, dense(np.log1p), name="more.h5ad")),
        "X holds no integers",
    ),
    "an embedding of other genes": (
        run_of("embed", cells=lambda f: written(f, lambda c: c[:, 2:].copy(), name="more.h5ad")),
        "2 of the 10 genes of the run",
    ),
    "an embedding of no cells": (
        run_of("embed", cells=lambda f: written(f, lambda c: c[[]].copy(), name="more.h5ad")),
        "no cells",
    ),
    "an embedding of a cell without counts in the run's genes": (
        run_of("embed", cells=lambda f: written(f, lambda c: without_counts(c), name="more.h5ad")),
        "1 of 20 cells have no count",
    ),
    "a prediction in no run": (lambda f: predict(f, written(f), "--condition", "a=b"), "is no folder of a run"),
    "a prediction by a model that makes none": (
        run_of("predict", "--condition", "batch=day 1"),
        "holds a vae, which predicts no other conditions; train one that does",
    ),
    "a prediction of nothing": (lambda f: predict(f, written(f)), "Missing option '--condition'"),
    "a prediction of a name alone": (
        lambda f: predict(f, written(f), "--condition", "perturbation"),
        "'perturbation' names no level; give a name and its level, such as tissue=lung",
    ),
    "an embedding kept open by nothing": (
        lambda f: lines(written(f), f / "run", "--keeps", "ema", model="jepa"),
        "'ema' is not one of 'variance', 'gaussian'",
    ),
    "pairs of rows without times": (
        option("--track", "well", model="jepa", small=()),
        "--track is of cells in time; give --track and --time with it, or none of these",
    ),
    "a window of genes": (
        option("--window", "3", model="jepa", small=()),
        "--window is of cells in time; give --track",
    ),
    "doses of cells without time": (
        option("--action", "hour", model="jepa", small=()),
        "--action is of cells in time; give --track and --time with it",
    ),
    "a gap that is done": (
        option("--track", "well", "--time", "hour", "--action", "gap", model="jepa", small=()),
        "a jepa is asked by gap=TIME what comes later; give the action 'gap' another name",
    ),
    "a prediction by a jepa of genes": (
        expected("--condition", "gap=1", told=()),
        "this jepa was not told of time; train one with --track and --time",
    ),
    "a gap in words": (
        expected("--condition", "gap=soon"),
        "gap=soon is no condition of this jepa; give gap=TIME, from 0 to 1, and by numbers what is done meanwhile",
    ),
    "a gap back in time": (expected("--condition", "gap=-1"), "gap=-1 is no condition of this jepa; give gap=TIME"),
    "a gap that is NaN": (expected("--condition", "gap=nan"), "gap=nan is no condition of this jepa; give gap=TIME"),
    "a gap that was never seen": (
        expected("--condition", "gap=1.5"),
        "gap=1.5 is no condition of this jepa; give gap=",
    ),
    "a gap of rows told nothing else": (
        expected("--condition", "hour=1", told=("--track", "well", "--time", "hour")),
        "hour=1 is no condition of this jepa; give gap=TIME, from 0 to 1",
    ),
    "an endless dose": (
        expected("--condition", "gap=1", "--condition", "dose=inf"),
        "dose=inf is no condition of this jepa; give gap=TIME",
    ),
    "a dose for no time": (expected("--condition", "dose=1"), "a jepa predicts over one gap or more, each given once"),
    "two doses at once": (
        expected("--condition", "gap=1", "--condition", "dose=1", "--condition", "dose=2"),
        "a jepa predicts over one gap or more, each given once, as is what is done meanwhile",
    ),
    "one gap twice": (
        expected("--condition", "gap=1", "--condition", "gap=1"),
        "a jepa predicts over one gap or more, each given once",
    ),
    "series without a track": (lambda f: lines("x", f, "--time", "hour", model="rssm"), "Missing option '--track'"),
    "series without times": (lambda f: lines("x", f, "--track", "well", model="rssm"), "Missing option '--time'"),
    "a track that is missing": (series(None, "--track", "mouse"), "no column 'mouse'; it has: cell_type, batch, well"),
    "a time that is missing": (series(None, "--time", "day"), "no column 'day'; it has: cell_type, batch, well"),
    "an action that is missing": (series(None, "--action", "dose"), "no column 'dose'; it has: cell_type, batch"),
    "a row without a track": (series(at("well", 3, None)), "obs['well'] is missing for 1 of 20 cells"),
    "times in words": (series(at("hour", 3, "late")), "'hour' holds no numbers; give a column that does"),
    "a row without a time": (series(at("hour", 3, np.nan)), "'hour' holds 1 values that are missing or infinite"),
    "an action that is NaN": (
        series(lambda obs: obs.insert(0, "dose", [np.nan, *range(19)]), "--action", "dose"),
        "'dose' holds 1 values that are missing or infinite; give an action 0 where nothing was done",
    ),
    "an action in words": (series(None, "--action", "batch"), "'batch' holds no numbers"),
    "a track with one row": (series(at("well", 3, "well X")), "has 1 of the 2 rows of a window; remove it"),
    "tracks shorter than a window": (
        series(None, "--window", "3"),
        "the track 'well 0' has 2 of the 3 rows of a window; remove it, or give a smaller --window",
    ),
    "a window of one row": (series(None, "--window", "1"), "'--window': 1 is not in the range x>=2"),
    "two rows at one time": (series(at("hour", 13, 0.0)), "well 'well 3' has two rows at hour 0, and a track is one"),
    "too few tracks": (
        series(None, "--validation", "0.01"),
        "--validation 0.01 of 10 tracks leaves none to hold out; it takes at least two tracks",
    ),
    "series of log-normalised cells": (
        lambda f: lines(written(f, logged), f / "run", *QUICK, "--track", "well", "--time", "hour", model="rssm"),
        "X holds no integers",
    ),
    "a prediction of a gene's fall": (imagined("--condition", "gene=0"), "gene=0 is no condition of an rssm; give the"),
    "a prediction after no time": (imagined("--condition", "after=noon"), "after=noon is no condition of an rssm"),
    "a prediction after the last row": (
        imagined("--condition", "after=1"),
        "no row is later than after=1; times go from 0 to 1",
    ),
    "a prediction after NaN": (imagined("--condition", "after=nan"), "after=nan; times go from 0 to 1"),
    "a prediction before the first row": (
        imagined("--condition", "after=-1"),
        "no row of the track 'well 0' is seen up to after=-1; times go from 0 to 1",
    ),
    "a prediction of cells without their track": (
        imagined("--condition", "after=0", change=lambda cells: setattr(cells, "obs", cells.obs.drop(columns="well"))),
        "no column 'well'",
    ),
    "a prediction of cells without doses": (
        imagined("--condition", "after=0", change=lambda cells: setattr(cells, "obs", cells.obs.drop(columns="dose"))),
        "no column 'dose'",
    ),
    "a prediction of series of other genes": (
        imagined("--condition", "after=0", change=lambda cells: cells[:, 2:].copy()),
        "2 of the 10 genes of the run",
    ),
    "a prediction from rows without counts": (
        imagined("--condition", "after=0", change=without_counts),
        "1 of 10 cells have no count",
    ),
    "perturbations without a control": (
        lambda f: lines(written(f), f / "run", "--by", "batch", model="scgen"),
        "Missing option '--control'",
    ),
    "a control that no cell has": (treated("--control", "DMSO"), "a model learns from cells labelled 'DMSO' and from"),
    "nothing but controls": (
        treated(change=lambda c: c[c.obs["batch"] == "day 0"].copy()),
        "obs['batch'] holds day 0: a model learns from cells labelled 'day 0' and from perturbed ones",
    ),
    "perturbations in a column that is missing": (
        lambda f: lines(written(f), f / "run", "--control", "day 0", model="gears"),
        "no column 'perturbation'; it has: cell_type, batch",
    ),
    "perturbations of log-normalised values": (treated("--layer", "X", change=dense(np.log1p)), "log-normalised"),
    "a perturbation among held-out cells alone": (
        treated("--control", "day 0", change=lambda c: rare(c.obs)),
        "2 cells with obs['batch'] = 'day 9' are held out",
    ),
    "shifts within groups that have one side alone": (
        treated("--group", "cell_type", model="scgen", change=apart),
        "no group has both cells of 'day 1' and of 'day 0'",
    ),
    "groups of a model that has none": (treated("--group", "cell_type"), "no option --group"),
    "doses in words": (treated("--dose", "cell_type"), "obs['cell_type'] holds what is no dose"),
    "doses below 0": (treated("--dose", "dose", change=dosed(np.arange(20) - 1.0)), "store numbers from 0 up"),
    "doses in a column that is missing": (treated("--dose", "dose"), "no column 'dose'"),
    "doses of a model that knows none": (treated("--dose", "dose", model="gears"), "no option --dose"),
    "an adversary that helps": (treated("--adversary", "-1"), "'--adversary': -1.0 is not in the range x>=0"),
    "more neighbours than genes": (treated(model="gears"), "k=10: a gene has from 1 to 9 neighbours among 10"),
    "a graph that is not there": (treated("--graph", "none.gmt", model="gears"), "none.gmt cannot be read"),
    "a graph that goes round before it begins": (treated("--n-layers", "-1", model="gears"), "'--n-layers': -1 is"),
    "masks that are all open": (treated("--share", "1", model="causal-vae"), "'--share': 1.0 is not in the range"),
    "sparsity below none": (treated("--sparsity", "-1", model="causal-vae"), "'--sparsity': -1.0 is not in the range"),
    "a flow of perturbations with more coordinates than genes": (
        treated("--coordinates", "11", model="perturb-flow"),
        "--coordinates 11, but there are 10 genes",
    ),
    "a head that is none": (sequenced("--head", "poisson"), "'poisson' is not one of 'linear', 'probabilistic'"),
    "tokens too narrow for their parts": (sequenced("--width", "10"), "width=10: tokens have three parts"),
    "an annotation that is not there": (sequenced("--annotation", "none.csv"), "none.csv cannot be read"),
    "an annotation of other genes": (sequenced("--annotation", "other.csv"), "has none of the 10 genes"),
    "an annotation without starts": (sequenced("--annotation", "short.csv"), "no column 'start'"),
    "descriptors of other perturbations": (sequenced("--descriptors", "table.csv"), "no perturbation in training has"),
    "descriptors in words": (sequenced("--descriptors", "words.csv"), "holds what are no numbers"),
    "descriptors of genes for what are none": (sequenced("--descriptors", "genes"), "no perturbation in training has"),
    "more pathway features than controls bear": (sequenced("--n-pathways", "9"), "ask for 18 or more"),
    "a layout that is none": (run_of("predict", "--condition", "a=b", "--layout", "csv"), "'csv' is not one of"),
    "a drug that the sequence does not know": (unheard, "'drug' has a part that no training cell carries"),
    "a perturbation that no training cell has": (
        foretold("--condition", "batch=day 1+X"),
        "no training cell carries 'X'",
    ),
    "a perturbation that is no gene of the graph": (
        foretold("--condition", "batch=gene-1+X", model="gears", with_=["--neighbours", "2"]),
        "'X' is no gene of the graph, which has 12",
    ),
    "a prediction by a name that the model does not know": (
        foretold("--condition", "perturbation=day 1"),
        "this model knows no 'perturbation': it is asked by --condition batch=A",
    ),
    "a dose that the model was not told": (
        foretold("--condition", "batch=day 1", "--condition", "dose=2"),
        "this model knows no 'dose'",
    ),
    "a dose in words": (
        foretold(
            "--condition", "batch=day 1", "--condition", "dose=high", with_=["--dose", "dose"], trained=dosed(1.0)
        ),
        "dose=high is no number",
    ),
    "a dose below 0": (
        foretold("--condition", "batch=day 1", "--condition", "dose=-1", with_=["--dose", "dose"], trained=dosed(1.0)),
        "dose=-1.0: it is a finite number from 0 up",
    ),
    "a dose of nothing": (
        foretold("--condition", "dose=1", with_=["--dose", "dose"], trained=dosed(1.0)),
        "name each perturbation once, --condition batch=A",
    ),
    "one perturbation twice": (foretold(*2 * ["--condition", "batch=day 1"]), "name each perturbation once"),
    "a prediction from perturbed cells": (
        foretold("--condition", "batch=day 1", change=None),
        "13 of 20 cells are labelled otherwise than 'day 0' (first: 'day 1'), and a prediction begins at controls",
    ),
    "a prediction from log-normalised controls": (
        foretold("--condition", "batch=day 1", change=dense(np.log1p)),
        "X holds no integers",
    ),
    "a prediction onto full totals that training cells had not": (
        foretold("--condition", "batch=day 1", model="gears", with_=["--neighbours", "2"], change=totalled),
        "training cells had no obs['n_counts']",
    ),
    "samples with genes that real cells lack": (
        report(samples=lambda c: setattr(c, "var_names", [*c.var_names[1:], "else"])),
        "lacks 1 of the 10 genes of the samples (first: 'else')",
    ),
    "samples on another scale": (report(samples=logged), "bring all to one scale"),
    "real cells that the model has seen": (report(None, None, "--train"), "60 cells stand in real and in train"),
    "real cells without the label": (report(None, None, "--label", "tissue"), "no column 'tissue'"),
    "samples with a gene twice": (report(samples=twice), "name 'gene-0' occurs more than once"),
    "samples that hold NaN": (report(logged, torn), "X holds NaN"),
    "too few samples": (report(samples=lambda c: c[:9].copy()), "say nothing"),
    "samples that are not there": (lambda f: ["report", "pbmc", str(f / "no.h5ad"), "--out", str(f / "o")], "no file"),
    "a report without a folder for it": (report(out="no/judged"), "create it first"),
    "a report onto other files": (report(out="."), "is there and not an empty folder"),
    "a report without samples": (lambda f: ["report", "pbmc", "--out", str(f / "o")], "SAMPLES.h5ad"),
    "a prediction that lacks a perturbation": (
        judged("predicted", lambda c: c[1:].copy()),
        "predicted lacks 1 of the 4",
    ),
    "a prediction of other genes": (
        judged("predicted", lambda c: setattr(c, "var_names", [*c.var_names[1:], "else"])),
        "lacks 1 of the 40 genes of the predictions (first: 'else')",
    ),
    "a prediction on another scale": (judged("predicted", lambda c: setattr(c, "X", 0.01 * c.X)), "another scale"),
    "a prediction without its column": (judged(None, None, "--perturbation", "target"), "no column 'target'"),
    "a judge without controls": (lambda f: ["evaluate", "a", "b", "--out", "c"], "Missing option '--control'"),
    "a judge without a second half of controls": (
        lambda f: ["evaluate", "a", "b", "--control", "a", "--out", "c"],
        "Missing option '--truth-control'",
    ),
    "one file of controls for both": (
        judged(None, None, "--truth-control", "control.h5ad"),
        "control and truth_control share 12 cells",
    ),
    "training cells that judge": (judged(None, None, "--train", "truth.h5ad"), "train and truth share 48 cells"),
    "replicates that are missing": (judged(None, None, "--replicate", "mouse"), "no column 'mouse'"),
    "gene sets that are no GMT": (judged(None, None, "--gene-sets", "FILE"), "is not a programme"),
    "gene sets that are not there": (judged(None, None, "--gene-sets", "none.gmt"), "none.gmt cannot be read"),
    "features that are no table": (judged(None, None, "--features", "FILE"), "is no table of features"),
    "features that are not there": (judged(None, None, "--features", "none.csv"), "none.csv cannot be read"),
    "a judge onto other files": (judged(out="."), "is there and not an empty folder"),
    "an embedding of gene names that occur twice": (
        run_of("embed", cells=lambda f: written(f, lambda c: twice(c), name="more.h5ad")),
        "name 'gene-0' occurs more than once",
    ),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input_ends_in_one_sentence_and_nothing_half_written(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    make, words = BAD[wrong]
    line = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    code = main(line)
    said = capsys.readouterr().err.strip().split("\r")[-1].strip()  # what a progress bar drew ends in \r
    assert code in (1, 2)
    assert said.startswith("error: ") and said.count("\n") == 0 and "unforeseen" not in said
    assert words in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def python_m_lab(*words, **how):
    return subprocess.run([sys.executable, "-m", "lab", *words], capture_output=True, text=True, timeout=120, **how)


@pytest.mark.parametrize("line, status", [(["train", "vae", "--data", "none.h5ad", "--out", "run"], 1), (["trian"], 2)])
def test_a_process_ends_with_the_status_and_one_line_on_stderr(line, status, tmp_path):
    done = python_m_lab(*line, cwd=tmp_path)
    assert done.returncode == status and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def raising(error):
    def sets(*_):
        raise error

    return sets


@pytest.mark.parametrize(
    "sets, said",
    [
        (lambda: {}["counts"], "unforeseen KeyError: 'counts'"),
        (lambda: int("many"), "unforeseen ValueError: invalid literal"),
        (lambda: np.ones(2) + np.ones(3), "unforeseen ValueError: operands could not be broadcast"),
        (lambda: 1 / 0, "unforeseen ZeroDivisionError: division by zero"),
        (raising(RuntimeError("a bug of ours")), "unforeseen RuntimeError: a bug of ours"),
        (raising(UnicodeError("an odd byte")), "unforeseen UnicodeError: an odd byte"),
    ],
)
def test_what_nobody_foresaw_is_one_sentence_and_a_traceback_with_debug(sets, said, monkeypatch, capsys):
    """Wherever it is raised: these functions pass for lab's own."""
    monkeypatch.setattr(data, "sets", in_lab(sets))
    assert main(["data"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and "doctor" in error and error.count("\n") == 1
    with pytest.raises(Exception, match=said.split(": ", 1)[1]):
        main(["data", "--debug"])


@pytest.mark.parametrize("kind", [Refused, ValueError, FloatingPointError])
def test_a_sentence_of_lab_is_what_is_said(kind, monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", in_lab(raising(kind("this cannot be; do that"))))
    assert main(["data"]) == 1
    assert capsys.readouterr().err == "error: this cannot be; do that\n"


def test_a_value_error_of_another_package_is_unforeseen(monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", raising(ValueError("something")))
    assert main(["data"]) == 1
    assert "unforeseen ValueError: something" in capsys.readouterr().err


def in_lab(function):
    """The same function as if it stood in a module of `lab`."""
    code = lambda f: types.FunctionType(f.__code__, f.__globals__ | {"__name__": "lab.data"}, closure=f.__closure__)
    return code(function)


def test_a_line_that_is_interrupted_ends_with_130(monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", raising(KeyboardInterrupt()))
    assert main(["data"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_place_where_nothing_can_be_written_is_named(monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", raising(OSError(30, "Read-only file system", "run/metrics.csv")))
    assert main(["data"]) == 1
    assert "run/metrics.csv: read-only file system; give a place" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is full")
@pytest.mark.parametrize(
    "write",
    [
        lambda: checkpoint._save({"w": torch.zeros(99_999)}, Path("/dev/full")),
        raising(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")),
        lambda: Path("/dev/full").write_text("genes"),
        lambda: simulated().obs.to_csv("/dev/full"),
        raising(OSError("[Errno 28] Can't synchronously write data (error message = 'No space left on device')")),
        raising(OSError(122, "Disk quota exceeded", "run/metrics.csv")),
    ],
)
def test_a_full_disk_is_called_one_whoever_writes(write, monkeypatch, capsys):
    monkeypatch.setattr(data, "sets", write)
    assert main(["data"]) == 1
    assert capsys.readouterr().err.startswith("error: the disk is full, or your share of it; free space")


@pytest.mark.parametrize("line", [train, lambda folder: sample(folder), lambda folder: embed(folder, written(folder))])
def test_a_run_that_one_may_not_read_is_not_called_none(line, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    words = line(tmp_path)
    monkeypatch.setattr(Path, "read_text", raising(PermissionError(13, "Permission denied", "run/run.json")))
    assert main(words) == 1
    assert "run/run.json: permission denied; ask for permission, or name another place" in capsys.readouterr().err
