"""Two processes, against the joint batch; precisions."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import train_two
from fresh import ended, fresh
from regression import regression

from lab.train import loop, steps

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def told(command, folder):
    out = subprocess.run(
        [sys.executable, *command, str(Path(train_two.__file__)), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.split("RESULT")[1])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return told([], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    result = told(
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], tmp_path_factory.mktemp("two")
    )
    assert (
        result["num_processes"] == 2
    )  # on CPU the launchers' word is not enough: accelerate may leave each process alone
    return result


def test_two_processes_take_the_steps_of_the_joint_batch(one, two):
    first, second = two["joint"]
    assert first == second == pytest.approx(one["joint"][0], rel=1e-12)


def test_two_processes_report_the_means_of_the_joint_batch(one, two):
    for row, joint in zip(two["reported"], one["reported"], strict=True):
        assert row["loss"] == pytest.approx(joint["loss"], rel=1e-12) and row["size"] == joint["size"] / 2


def test_without_the_wrapper_two_processes_go_apart(one, two):
    first, second = two["unwrapped"]
    assert one["unwrapped"][0] == pytest.approx(
        one["joint"][0], rel=1e-12
    )  # the same loop, where one process is enough
    assert max(abs(a - b) for a, b in zip(first, second)) > 1e-3
    assert max(abs(a - b) for a, b in zip(first, one["joint"][0])) > 1e-3


def test_two_networks_in_two_processes_take_the_steps_of_the_joint_batch(one, two):
    assert two["pair"] == pytest.approx(one["pair"], rel=1e-12)


def test_two_processes_validate_and_resume_as_one(one, two):
    assert two["resumed"] == pytest.approx(one["resumed"], rel=1e-12)
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-12)


@pytest.mark.parametrize("cells", ["loader", "on disk"])
def test_the_size_of_a_loader_is_the_global_batch(cells, one, two):
    halves, whole = torch.tensor(two[cells]), torch.tensor(one[cells])  # (12, 8, 2) and (6, 16, 2)
    assert torch.equal(torch.cat([halves[:6], halves[6:]], 1), whole)
    assert sorted(whole[..., 0].flatten().tolist()) == list(range(1, 2 * 96, 2)), "each cell once"
    assert not torch.equal(torch.tensor(one["on disk"]), torch.tensor(one["loader"])), "in shares of its own"


def test_two_processes_refuse_a_list_which_would_give_both_the_same_cells(two):
    assert two["refused"] == (
        "2 processes would all read the same cells from a list; pass a DataLoader, which is split among them"
    )


def in_bf16(folder):
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"  # what `accelerate launch --mixed_precision bf16` sets
    model, _, batches = regression()
    seen = []
    loss = lambda b: {"loss": (seen.append(y := model(b["x"])) or y.float() - b["y"]).square().mean()}
    torch.save(
        [list(steps(model, loss, batches, n=3)), [str(y.dtype) for y in seen], str(model.weight.dtype)],
        folder / "out.pt",
    )


def test_the_same_loop_runs_in_bf16(tmp_path):
    process = fresh.Process(target=in_bf16, args=(tmp_path,))
    process.start()
    assert ended(process) == 0
    rows, dtypes, kept = torch.load(tmp_path / "out.pt", weights_only=True)
    assert dtypes == 3 * ["torch.bfloat16"] and kept == "torch.float32"
    model, loss, batches = regression()
    assert [row["loss"] for row in rows] == pytest.approx(
        [row["loss"] for row in islice(steps(model, loss, batches, n=3), 3)], rel=0.05
    )


def test_float16_is_refused_because_its_losses_would_need_scaling(monkeypatch):
    monkeypatch.setattr(loop, "accelerator", lambda: SimpleNamespace(num_processes=1, mixed_precision="fp16"))
    model, loss, batches = regression()
    with pytest.raises(ValueError, match="launch with bf16"):
        steps(model, loss, batches, n=1)
