"""Learning rates that change: what the loop does with one, and that a run continues under it to the bit."""

import math

import pytest
import torch
from regression import regression, weights

from lab.train import cosine, fit, steps


def test_a_schedule_is_torchs_own_to_the_bit():
    model, loss, batches = regression()
    list(steps(model, loss, batches, n=20, lr=cosine(0.1, 20)))
    other, loss, _ = regression()
    optimizer = torch.optim.AdamW(other.parameters(), lr=1.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(0.1, 20))
    for i in range(20):
        optimizer.zero_grad()
        loss(batches[i % 5])["loss"].backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=0)


def test_a_constant_function_is_the_number():
    ends = []
    for lr in (0.05, lambda step: 0.05):
        model, loss, batches = regression()
        list(steps(model, loss, batches, n=12, lr=lr))
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_cosine_rises_to_its_peak_falls_to_nothing_and_spends_half_of_the_peak_on_average():
    rate = [cosine(2.0, 1000, warm_up=0.1)(step) for step in range(1000)]
    assert rate[0] == pytest.approx(0.02) and max(rate) == rate[99] == rate[100] == 2.0
    assert rate[549] > 1 > rate[551] and 0 < rate[-1] < 1e-4
    assert all(a < b for a, b in zip(rate[:99], rate[1:100])) and all(a > b for a, b in zip(rate[100:], rate[101:]))
    assert sum(rate) / 1000 == pytest.approx(1.0, abs=0.01)
    assert cosine(2.0, 10, warm_up=0)(0) == 2.0


@pytest.mark.parametrize("warm_up", [-0.1, 1.0])
def test_a_warm_up_that_leaves_no_step_to_fall_is_refused(warm_up):
    with pytest.raises(ValueError, match="the fraction that rises"):
        cosine(0.1, 10, warm_up=warm_up)


def interrupted(loss, at):
    """`loss`, until it has been asked `at` times."""
    calls = iter(range(at))

    def until(b):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return loss(b)

    return until


def test_a_run_under_a_schedule_resumes_to_the_weights_of_one_that_was_never_interrupted(tmp_path):
    whole, loss, batches = regression()
    fit(whole, loss, batches, n=20, lr=cosine(0.1, 20))
    model, loss, batches = regression()
    with pytest.raises(KeyboardInterrupt):
        fit(model, interrupted(loss, 11), batches, n=20, lr=cosine(0.1, 20), checkpoint=tmp_path, every=4)
    model, loss, batches = regression(seed=1)  # other weights: those of the checkpoint count
    batches = regression()[2]
    fit(model, loss, batches, n=20, lr=cosine(0.1, 20), checkpoint=tmp_path, every=4)
    assert torch.equal(weights(model), weights(whole))


@pytest.mark.parametrize(
    "n, lr, words",
    [
        (30, cosine(0.1, 30), "n = 20, not 30"),
        (20, cosine(0.2, 20), r"lr = \[0.1,"),
        (20, 0.1, r"lr = \[0.1, .*\], not 0.1;"),
        (20, lambda step: 0.1 * math.exp(-step / 10), r"lr = \[0.1,"),
    ],
)
def test_another_schedule_or_more_steps_under_one_are_refused(n, lr, words, tmp_path):
    model, loss, batches = regression()
    fit(model, loss, batches, n=20, lr=cosine(0.1, 20), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=words):
        fit(model, loss, batches, n=n, lr=lr, checkpoint=tmp_path)
