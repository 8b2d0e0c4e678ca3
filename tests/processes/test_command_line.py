"""`train` when a process is killed, and when there are two."""

import json
import os
import signal
import subprocess
import sys
import time

import anndata as ad
import pandas as pd
import pytest
from command_line import MODELS, assert_same_results, lines, status_of, written
from fresh import ended, fresh


@pytest.mark.parametrize("model", MODELS)
def test_a_run_killed_in_the_middle_ends_with_the_weights_of_one_that_was_not(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    options = ["--steps", "300", "--patience", "1000", "--size", "16", *MODELS[model]]

    def run(out):
        process = fresh.Process(target=status_of, args=lines(path, tmp_path / out, *options, model=model))
        process.start()
        return process

    process = run("killed")
    while process.is_alive() and not any((tmp_path / "killed" / "checkpoint").glob("step-0000001*")):
        time.sleep(0.01)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert ended(run("killed")) == 0 and ended(run("whole")) == 0
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("model", ["cvae", "beta-vae", "ddpm", "flow", "ebm", "jepa", "rssm", "cpa", "bimamba"])
def test_two_processes_share_one_run_and_the_first_writes_it(model, tmp_path):
    path = written(tmp_path, n_cells=200, n_genes=50)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lab"]
    done = subprocess.run(
        [*torchrun, *lines(path, tmp_path / "run", "--epochs", "20", "--lr", "0.005", *MODELS[model], model=model)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["results"]["processes"] == 2 and done.stdout.count("results go to") == 1
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")["val_loss"].dropna()
    falls = {"ddpm": 1, "flow": 1, "ebm": -0.3, "jepa": 0.1, "rssm": 0.5, "bimamba": 0}  # bimamba: days are alike
    assert metrics.iloc[-1] < metrics.iloc[0] - falls.get(model, 10)  # of fifty genes' likelihood
    file = record["files"][0]
    assert ad.read_h5ad(tmp_path / "run" / file).n_obs == (2 if model == "bimamba" else 200)  # a row a perturbation
