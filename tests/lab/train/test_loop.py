"""The loop, against hand-written ones."""

import gc
import weakref

import pytest
import torch
import train_resume
from regression import regression, weights
from torch import nn
from torch.utils.data import DataLoader

from lab.train import checkpoint, ema_update, fit, steps


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
    assert checkpoint.accelerator() is checkpoint.accelerator()
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


def test_best_weights_of_any_layout_are_kept_in_checkpoints(tmp_path):
    """Loadings (20, 3) such as PCA's, a transpose; the run goes on from its checkpoint as if it had not stopped."""

    def start():
        torch.manual_seed(0)
        model = nn.Module()
        model.loadings = nn.Parameter(torch.randn(3, 20).T)
        return model, lambda b: {"loss": (b["x"] - b["x"] @ model.loadings @ model.loadings.T).square().mean()}

    b = {"x": torch.randn(8, 20, generator=torch.Generator().manual_seed(1))}
    weights = []
    for folder, ends in (("whole", [6]), ("parts", [3, 6])):
        for n in ends:
            model, loss = start()
            table = fit(model, loss, [b], n=n, validate=[b], patience=2, checkpoint=tmp_path / folder)
        assert len(table) == 6 and not model.loadings.is_contiguous()
        weights.append(model.loadings)
    assert torch.equal(*weights)


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
