"""Checkpoints, against SIGKILL at any instant."""

import os
import pickle
import signal
import time

import pytest
import torch
import train_resume
from fresh import ended, fresh
from regression import regression, weights
from safetensors.torch import load_file
from torch import nn

from lab.train import fit

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(*args):
    process = fresh.Process(target=train_resume.run, args=tuple(map(str, args[:3])) + args[3:])
    process.start()
    return process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """How each kind of loader's run ends when nothing happens to it."""
    ends = {}

    def end(kind):
        if kind not in ends:
            folder = tmp_path_factory.mktemp("whole")
            assert ended(run(kind, folder, folder / "out.pt")) == 0
            ends[kind] = torch.load(folder / "out.pt", weights_only=True)
        return ends[kind]

    return end


def assert_same(end, other):
    assert end["weights"].keys() == other["weights"].keys()
    for name, value in end["weights"].items():
        assert torch.equal(value, other["weights"][name]), name
    assert str(end["rows"]) == str(other["rows"])  # as text: NaN, where nothing was validated, is NaN


KINDS = ["lab.data.loader", "on disk", "torch's generator", "own generator", "list"]
MID_SAVE = [
    "mid-save: no file yet",
    "mid-save: weights half written",
    "mid-save: no state yet",
    "mid-save: not yet renamed",
    "mid-save: the old one not yet removed",
]


@pytest.mark.parametrize(
    "kind, moment", [(kind, "mid-epoch") for kind in KINDS] + [(KINDS[0], moment) for moment in MID_SAVE]
)
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(kind, moment, tmp_path, uninterrupted):
    assert ended(run(kind, tmp_path / "run", tmp_path / "out.pt", moment)) == -signal.SIGKILL
    whole = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert whole == {"mid-epoch": ["step-000000012"], MID_SAVE[-1]: ["step-000000008", "step-000000012"]}.get(
        moment, ["step-000000004"]
    )  # the last good one is kept
    assert ended(run(kind, tmp_path / "run", tmp_path / "out.pt")) == 0
    assert_same(torch.load(tmp_path / "out.pt", weights_only=True), uninterrupted(kind))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000000023"]


def test_a_run_killed_again_and_again_at_any_instant_ends_the_same(tmp_path, uninterrupted):
    (tmp_path / "run").mkdir()
    for milliseconds in (0, 1, 3):  # after a save has begun or ended: nothing decides where this falls
        process, seen = run(KINDS[0], tmp_path / "run", tmp_path / "out.pt"), os.listdir(tmp_path / "run")
        while process.is_alive() and os.listdir(tmp_path / "run") == seen:
            time.sleep(0.0005)
        time.sleep(milliseconds / 1000)
        process.kill()
        process.join()
    assert ended(run(KINDS[0], tmp_path / "run", tmp_path / "out.pt")) == 0
    assert_same(torch.load(tmp_path / "out.pt", weights_only=True), uninterrupted(KINDS[0]))


def test_a_finished_run_is_only_read(tmp_path):
    model, loss, batches = regression()
    table = fit(model, loss, batches, n=7, checkpoint=tmp_path)
    other, loss, batches = regression(seed=4)
    assert fit(other, loss, batches, n=7, checkpoint=tmp_path).equals(table) and torch.equal(
        weights(other), weights(model)
    )


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    model, loss, batches = regression()
    given = {"n": 60, "lr": 0.3, "validate": regression(seed=1)[2], "patience": 2, "every": 2, "checkpoint": tmp_path}
    table = fit(model, loss, batches, **given)
    assert len(table) < 60
    other, loss, batches = regression(seed=4)
    assert fit(other, loss, batches, **given).equals(table) and torch.equal(weights(other), weights(model))


def test_a_checkpoint_stores_the_step_the_shuffle_and_the_position(tmp_path):
    model = train_resume.Model()
    fit(model, model.loss, train_resume.batches(KINDS[0]), n=7, checkpoint=tmp_path, every=7)
    state = torch.load(tmp_path / "step-000000007" / "state.pt", weights_only=True)
    assert (state["step"], state["epoch"], state["position"]) == (7, 1, 2)
    weights = load_file(tmp_path / "step-000000007" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_nothing_is_unpickled(tmp_path):
    model, loss, batches = regression()
    fit(model, loss, batches, n=5, checkpoint=tmp_path)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name in ("state.pt", "random-0.pt"):
        file = tmp_path / "step-000000005" / name
        good = file.read_bytes()
        torch.save(Trap(), file)
        with pytest.raises(ValueError, match="cannot be read") as error:
            fit(model, loss, batches, n=6, checkpoint=tmp_path)
        assert isinstance(error.value.__cause__, pickle.UnpicklingError)
        file.write_bytes(good)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 0.5}, r"written with lr = 0\.001, not 0\.5"),
        ({"batches": regression()[2][:3]}, "written with minibatches per epoch = 5, not 3"),
        ({"model": nn.Linear(4, 1)}, "holds the weights of another model"),
        ({"n": 3}, "is already at step 5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_in_one_sentence(change, words, tmp_path):
    model, loss, batches = regression()
    given = {"model": model, "loss": loss, "batches": batches, "n": 5, "checkpoint": tmp_path}
    fit(**given)
    with pytest.raises(ValueError, match=words) as error:
        fit(**given | change)
    assert "\n" not in str(error.value)
