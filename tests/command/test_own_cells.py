"""How to use this book shows a line for each thing that a scientist does with cells of his own: they run as printed."""

import re
import shlex
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from command_line import simulated
from screens import screen

from lab.command import main

PAGE = Path(__file__).resolve().parents[2] / "book/how-to-use.md"


@pytest.mark.filterwarnings("ignore::UserWarning")  # scanpy's, of a graph of so few cells
def blocks(start, end):
    """The (shell, python) blocks of a section: words of each line, and code."""
    section = PAGE.read_text().split(f"({start})=")[1].split(f"({end})=")[0]
    shell, python = (re.findall(rf"```{language}\n(.*?)```", section, re.S) for language in ("bash", "python"))
    return [shlex.split(line, comments=True) for line in shell[0].splitlines()], python[0]


def run(lines, epochs):
    for line in lines:
        assert line[:3] == ["python", "-m", "lab"]
        assert main([*line[3:], *(["--epochs", epochs] if line[3] == "train" else [])]) == 0, line


def test_the_lines_for_your_own_cells_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = simulated(400, 50)
    cells[:300].copy().write_h5ad("cells.h5ad")
    cells[300:].copy().write_h5ad("others.h5ad")
    lines, python = blocks("your-own-cells", "your-own-screen")
    run(lines, "3")
    exec(python, space := {})
    curve, cells, model = plt.gca().lines, space["cells"], space["model"]
    assert [len(line.get_ydata()) for line in curve] == [3, 3] and not model.training
    assert cells.obsm["X_umap"].shape == (300, 2) and np.isfinite(cells.layers["vae_normalized"]).all()
    assert {"names", "logfoldchanges"} <= set(space["sc"].get.rank_genes_groups_df(cells, "A"))
    plt.close("all")


def test_the_lines_for_your_own_screen_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = screen(names=["A", "B", "C", "A+B", "A+C", "B+C"], effect=0.6, genes=60)
    ad.concat([s.cells, s.a, s.b]).write_h5ad("screen.h5ad")
    lines, python = blocks("your-own-screen", "protocol")
    exec(python, {})
    run(lines, "30")
    table = pd.read_csv("verdict/report.csv", index_col=[0, 1])["median"]
    assert table["MSE", "model"] < 0.8 * table["MSE", "no-change"] and {"additive", "ceiling"} <= set(
        table["MSE"].index
    )
