"""How to use this book shows a line for each thing that a scientist does with cells of his own: they run as printed."""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from command_line import simulated

from lab.command import main

PAGE = Path(__file__).resolve().parents[2] / "book/how-to-use.md"


@pytest.mark.filterwarnings("ignore::UserWarning")  # scanpy's, of a graph of so few cells
def test_the_lines_for_your_own_cells_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = simulated(400, 50)
    cells[:300].copy().write_h5ad("cells.h5ad")
    cells[300:].copy().write_h5ad("others.h5ad")
    section = PAGE.read_text().split("(your-own-cells)=")[1].split("(protocol)=")[0]
    shell, python = (re.findall(rf"```{language}\n(.*?)```", section, re.S) for language in ("bash", "python"))
    lines = [shlex.split(line, comments=True) for line in shell[0].splitlines()]
    for line in lines:
        assert line[:3] == ["python", "-m", "lab"]
        assert main([*line[3:], *(["--epochs", "3"] if line[3] == "train" else [])]) == 0, line
    exec(python[0], space := {})
    curve, cells, model = plt.gca().lines, space["cells"], space["model"]
    assert [len(line.get_ydata()) for line in curve] == [3, 3] and not model.training
    assert cells.obsm["X_umap"].shape == (300, 2) and np.isfinite(cells.layers["vae_normalized"]).all()
    assert {"names", "logfoldchanges"} <= set(space["sc"].get.rank_genes_groups_df(cells, "A"))
    plt.close("all")
