"""The loop, against hand-written ones; the checkpoints, against SIGKILL; two processes, against the joint batch."""

import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import train_resume
import train_two
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from lab import train
from lab.train import ema_update, fit, steps

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def regression(seed=0, cells=8):
    """A linear model and minibatches of x -> y that it can only fit partly."""
    random = torch.Generator().manual_seed(seed)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=random))
    batches = [
        {"x": torch.randn(cells, 3, generator=random), "y": torch.randn(cells, 1, generator=random)} for _ in range(5)
    ]
    return model, lambda b: {"loss": (model(b["x"]) - b["y"]).square().mean()}, batches


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_loop(model, loss, batches, n, lr=1e-3, clip=None):
    """What `steps` promises, written out with torch alone."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=lr), []
    for i in range(n):
        optimizer.zero_grad()
        value = loss(batches[i % len(batches)])["loss"]
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(value.item())
    return losses


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.1])
def test_steps_is_the_hand_written_loop(clip):
    model, loss, batches = regression()
    expected = plain_loop(model, loss, batches, n=12, lr=0.05, clip=clip)
    after = weights(model)
    model, loss, batches = regression()
    reported = [row["loss"] for row in steps(model, loss, batches, n=12, lr=0.05, clip=clip)]
    assert reported == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights(model), after)


def test_steps_yields_after_the_update_what_the_loss_reported_before_it():
    model, loss, batches = regression()
    before, value = weights(model), loss(batches[0])["loss"].item()
    row = next(steps(model, loss, batches, n=1))
    assert row == {"loss": pytest.approx(value)} and type(row["loss"]) is float
    assert not torch.equal(weights(model), before)


def test_every_entry_of_the_loss_is_reported_as_a_float():
    model, loss, batches = regression()
    row = next(
        steps(model, lambda b: loss(b) | {"cells": 8, "half": torch.tensor(0.5, dtype=torch.float64)}, batches, n=1)
    )
    assert row["cells"] == 8.0 and row["half"] == 0.5 and all(type(value) is float for value in row.values())


def test_the_callers_loop_body_is_the_callback_and_may_break():
    model, loss, batches = regression()
    target = nn.Linear(3, 1)
    for i, _ in enumerate(steps(model, loss, batches, n=100)):
        ema_update(target, model, decay=0.0)
        if i == 3:
            break
    torch.testing.assert_close(weights(target), weights(model))
    expected, loss, batches = regression()
    plain_loop(expected, loss, batches, n=4)
    torch.testing.assert_close(weights(model), weights(expected))


def test_the_model_trains_within_a_step_and_evaluates_in_the_loop_body():
    model, loss, batches = regression()
    modes = []
    for _ in steps(model, lambda b: modes.append(model.training) or loss(b), batches, n=3):
        modes.append(model.training)
    assert modes == 3 * [True, False]


@pytest.mark.parametrize("batches", [[], iter([]), DataLoader([])], ids=["list", "iterator", "DataLoader"])
def test_an_empty_loader_raises(batches):
    model, loss, _ = regression()
    with pytest.raises(ValueError, match="the loader yielded no minibatch"):
        next(steps(model, loss, batches, n=1))


def test_a_spent_iterator_raises_in_the_second_pass():
    model, loss, batches = regression()
    with pytest.raises(ValueError, match="an iterator already spent"):
        list(steps(model, loss, iter(batches), n=6))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_raises_before_the_weights_are_touched(value):
    model, loss, batches = regression()
    batches[2]["y"][0] = value
    run = steps(model, loss, batches, n=5)
    next(run), next(run)
    before = weights(model)
    with pytest.raises(
        FloatingPointError,
        match=r"^the loss is (nan|inf) at step 3; lower lr, set clip, or look for NaN in the minibatch$",
    ):
        next(run)
    assert torch.equal(weights(model), before)


def test_frozen_parameters_stay():
    model, loss, batches = regression()
    model.bias.requires_grad_(False)
    bias = model.bias.clone()
    list(steps(model, loss, batches, n=3))
    assert torch.equal(model.bias, bias)


def adversaries():
    torch.manual_seed(1)
    model, critic = nn.Linear(3, 2), nn.Linear(2, 1)
    fool = lambda b: {"loss": critic(model(b["x"])).mean() + model(b["x"]).square().mean()}
    tell = lambda b: {"loss": (critic(model(b["x"]).detach()) - b["y"]).square().mean()}
    return model, critic, fool, tell


def test_two_networks_are_two_generators_advanced_in_turn():
    """As in FactorVAE: the first loss runs through the second network, whose gradients that must not disturb."""
    _, _, batches = regression()
    model, critic, fool, tell = adversaries()
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.01) for net in (model, critic)]
    for i in range(12):
        for optimizer, loss in zip(optimizers, (fool, tell)):
            optimizer.zero_grad()
            loss(batches[i % 5])["loss"].backward()
            optimizer.step()
    expected = torch.cat([weights(model), weights(critic)])
    model, critic, fool, tell = adversaries()
    for _ in zip(steps(model, fool, batches, n=12, lr=0.01), steps(critic, tell, batches, n=12, lr=0.01), strict=True):
        pass
    torch.testing.assert_close(torch.cat([weights(model), weights(critic)]), expected)


def test_a_process_has_one_accelerator_which_keeps_no_finished_training():
    model, loss, batches = regression()
    list(steps(model, loss, DataLoader([(b,) for b in batches], batch_size=1, collate_fn=lambda rows: rows[0][0]), n=2))
    assert train._accelerator() is train._accelerator()
    gone = weakref.ref(model)
    del model, loss
    gc.collect()
    assert gone() is None


# --- fit -------------------------------------------------------------------------------------------------------------


def test_fit_is_steps_run_to_the_end_as_a_table_with_one_row_per_step():
    model, loss, batches = regression()
    expected = [row["loss"] for row in steps(model, loss, batches, n=7)]
    after = weights(model)
    model, loss, batches = regression()
    table = fit(model, loss, batches, n=7)
    assert (
        table["loss"].tolist() == expected and table.index.tolist() == list(range(1, 8)) and table.index.name == "step"
    )
    assert list(table.columns) == ["loss"] and torch.equal(weights(model), after)


def test_fit_shows_a_progress_bar(capsys):
    model, loss, batches = regression()
    fit(model, loss, batches, n=7)
    assert "0/7" in capsys.readouterr().err


def noisy(model):
    return lambda b: {"loss": (model(b["x"] + 0.1 * torch.randn_like(b["x"])) - b["y"]).square().mean()}


def test_validation_leaves_the_training_as_it_was():
    ends = []
    for validate in (None, regression(seed=1)[2]):
        model, _, batches = regression()
        torch.manual_seed(3)
        table = fit(model, noisy(model), batches, n=12, validate=validate, every=5)
        ends.append(weights(model))
    assert torch.equal(*ends) and table["val_loss"].notna().tolist() == [step in (5, 10, 12) for step in range(1, 13)]


def test_validation_is_the_mean_over_cells_also_when_minibatches_differ_in_size():
    model, loss, batches = regression()
    held_out = [regression(seed=s, cells=n)[2][0] for s, n in ((1, 3), (2, 9))]
    table = fit(model, loss, batches, n=5, validate=held_out)
    whole = {name: torch.cat([b[name] for b in held_out]) for name in ("x", "y")}
    assert table.loc[5, "val_loss"] == pytest.approx(loss(whole)["loss"].item(), rel=1e-5)


def test_validation_meets_the_same_noise_each_time():
    model, _, batches = regression()
    for p in model.parameters():
        p.requires_grad_(False)
    idle = nn.Parameter(torch.zeros(()))
    model.register_parameter("idle", idle)
    loss = lambda b: {"loss": noisy(model)(b)["loss"] + idle * 0}
    held_out = train_resume.loader(train_resume.counts(1), size=16)
    table = fit(
        model, lambda b: loss({"x": b["x"][:, :3], "y": b["x"][:, 3:4]}), held_out, n=6, validate=held_out, every=2
    )
    assert table["val_loss"].nunique() == 1 and table["loss"].nunique() == 6


def test_early_stopping_restores_the_best_weights():
    """Training pulls w up to 3 while the held-out cells want 1: the best validation is where w passes 1."""

    def start():
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model, lambda b: {"loss": (model.weight - b["goal"]).square().mean()}

    training, held_out = [{"goal": torch.full((4, 1), 3.0)}], [{"goal": torch.full((2, 1), 1.0)}]
    given = {"n": 500, "lr": 0.05, "validate": held_out, "every": 2}

    model, loss = start()
    whole = fit(model, loss, training, **given)["val_loss"].dropna()
    assert model.weight.item() > 2
    model, loss = start()
    table = fit(model, loss, training, **given, patience=3)
    best = table["val_loss"].idxmin()
    assert best == whole.idxmin() and len(table) == best + 3 * 2
    assert loss(held_out[0])["loss"].item() == pytest.approx(table["val_loss"].min(), abs=0)
    expected, loss = start()
    list(steps(expected, loss, training, n=best, lr=0.05))
    assert torch.equal(model.weight, expected.weight)


def test_patience_without_validation_is_refused():
    model, loss, batches = regression()
    with pytest.raises(ValueError, match="pass validate="):
        fit(model, loss, batches, n=1, patience=3)


# --- moving average --------------------------------------------------------------------------------------------------


def test_a_moving_average_forgets_its_start_geometrically():
    target, online = nn.Linear(3, 2), nn.Linear(3, 2)
    start, goal = weights(target), weights(online)
    for _ in range(10):
        ema_update(target, online, decay=0.9)
    torch.testing.assert_close(weights(target), 0.9**10 * start + (1 - 0.9**10) * goal)
    assert torch.equal(weights(online), goal) and all(p.grad_fn is None for p in target.parameters())


def test_a_moving_average_copies_buffers():
    target, online = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    online(torch.randn(8, 3))
    ema_update(target, online, decay=0.9)
    for name, value in online.named_buffers():
        assert torch.equal(dict(target.named_buffers())[name], value), name


def test_a_moving_average_of_another_network_raises():
    with pytest.raises(ValueError):
        ema_update(nn.Linear(3, 2), nn.Linear(3, 2, bias=False), decay=0.9)


# --- checkpoints -----------------------------------------------------------------------------------------------------

fresh = multiprocessing.get_context("forkserver")  # every run in a process of its own, from one that only imported
fresh.set_forkserver_preload(["lab.train", "lab.data"])


def run(*args):
    process = fresh.Process(target=train_resume.run, args=tuple(map(str, args[:3])) + args[3:])
    process.start()
    return process


def ended(process):
    process.join(120)
    return process.exitcode


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


KINDS = ["lab.data.loader", "torch's generator", "own generator", "list"]
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


# --- processes and precision -----------------------------------------------------------------------------------------


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


def test_the_size_of_a_loader_is_the_global_batch(one, two):
    halves, whole = torch.tensor(two["loader"]), torch.tensor(one["loader"])  # (12, 8, 2) and (6, 16, 2)
    assert torch.equal(torch.cat([halves[:6], halves[6:]], 1), whole)


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
    monkeypatch.setattr(train, "_accelerator", lambda: SimpleNamespace(num_processes=1, mixed_precision="fp16"))
    model, loss, batches = regression()
    with pytest.raises(ValueError, match="launch with bf16"):
        steps(model, loss, batches, n=1)
