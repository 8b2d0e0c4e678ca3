"""The bench measures what it says: the simulation is as described, and the bounds are bounds."""

import math
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parent


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(BENCH), run_name="bench")


@pytest.fixture(scope="module")
def simulated(bench):
    return bench["simulate"]()


def test_the_simulation_is_as_sparse_as_it_says(simulated):
    cells, held_out, truth = simulated
    counts = cells.layers["counts"]
    assert counts.shape == (2700, 2000) and held_out.shape == (300, 2000) and truth.shape == (300,)
    assert [round((counts == k).mean(), 2) for k in (0, 1)] == [0.85, 0.09]
    assert np.median(counts.sum(1)) == pytest.approx(780, abs=10)


def test_training_raises_the_held_out_bound_towards_the_truth(bench, simulated):
    cells, held_out, truth = simulated
    torch.manual_seed(0)
    start = bench["held_out_lab"](bench["vae"].count_vae(2000), held_out, k=10)
    end = bench["held_out_lab"](bench["fit_lab"](cells, epochs=3, seed=0)[0], held_out, k=10)
    assert start + 100 < end < truth.mean()


@pytest.fixture(scope="module")
def chains(bench):
    """The module, which the bench has imported from its own folder."""
    return sys.modules["chains"]


@pytest.fixture(scope="module")
def models():
    return runpy.run_path(str(BENCH / "models.py"), run_name="models")


def test_every_step_that_is_timed_trains(models, simulated):
    """The loss falls: a row of the table times no idle loop."""
    cells = simulated[0][:256].copy()
    torch.manual_seed(0)
    for name, (begin, _) in models["STEPS"].items():
        rows = list(islice(begin(cells), 5))
        first, last = (row[0] if name == "FactorVAE" else row for row in (rows[0], rows[-1]))
        assert last["loss"] < first["loss"] - 20, name


def test_mig_and_dci_of_ten_thousand_cells_take_less_than_five_seconds(models):
    wall, cpu = models["seconds_of_mig_and_dci"]()
    assert cpu < 5


def test_chains_that_are_timed_walk(chains):
    """They end spread over the mixture's scale, not where they began, and the rates are those of steps taken."""
    toy = chains.toys.gaussian_mixture()
    for name, walk in chains.lab_chains().items():
        x = walk()
        assert x.shape == (chains.CHAINS, 2) and toy.log_prob(x.double()).mean() > -4, name
    rates = chains.chain_steps_per_second(1)
    assert {"lab, Langevin", "lab, MALA"} <= rates.keys() and min(min(pair) for pair in rates.values()) > 1e4


def test_the_distances_that_are_timed_are_those_of_scipy_and_take_little_room(bench):
    """bench: it has put its folder where `samples` is found."""
    samples = sys.modules["samples"]
    x, y = np.random.default_rng(0).normal(size=(2, 2500, 5)) + np.array([0, 0.3])[:, None, None]
    for name, (ours, theirs) in samples.DISTANCES.items():
        assert ours(x, y) == pytest.approx(theirs(x, y), abs=1e-12), name
        assert 8 < samples.megabytes(ours.__name__, 10_000) < 200, "the points are 8 MB, all distances would be 800"


def test_cells_from_disk_are_a_file_larger_than_what_is_kept_and_shuffled_cost_little_more(bench, tmp_path):
    """Of processor time, which other work disturbs less; rows read one by one cost twelve times as much."""
    disk = sys.modules["disk"]
    path = disk.write(tmp_path / "cells.h5ad", 60_000)
    batches = disk.loader(disk.read(path, on_disk=True))
    assert batches.dataset.blocks.size * batches.dataset.blocks.kept < 60_000
    rates = disk.cells_per_second(path, 3)
    assert rates["in order"][1] < 1.5 * rates["shuffled"][1]
    assert 60 < disk.megabytes(path) < 256


def test_the_screen_that_is_judged_in_the_bench_has_every_row_and_a_perfect_model_on_top(bench):
    perturbations = sys.modules["perturbations"]
    sets = perturbations.screen(judged=30, known=15, cells=30, controls=60, genes=200)
    table = perturbations.perturb.at_a_glance(perturbations.evaluated(sets), "mean")
    assert list(table.columns) == perturbations.perturb.ROWS and list(table.index) == perturbations.perturb.METRICS
    beside = table.loc["delta-correlation (mean)"].drop(["model", "ceiling"])
    assert table.loc["delta-correlation (mean)", "model"] > beside.max() > beside["no-change"]


def test_judging_fifty_perturbations_takes_a_few_seconds_and_little_room(bench):
    """Of processor time, which other work disturbs less: a sixth of the bench's perturbations."""
    wall, cpu, beside, whole = sys.modules["perturbations"].cost(judged=50, known=20, genes=1000)
    assert cpu < 8 and beside < 500


@pytest.mark.peer
def test_mala_accepts_as_often_and_reaches_the_law_of_blackjaxs(chains):
    """The same step size means the same chain: spread around the modes agrees within the noise of 1,000 chains."""
    pytest.importorskip("blackjax")
    toy = chains.toys.gaussian_mixture()
    ours = chains.lab_chains()["lab, MALA"]()
    theirs = torch.tensor(np.array(chains.blackjax_chains()["blackjax, MALA"]()))
    level = [toy.log_prob(x.double()) for x in (ours, theirs)]
    error = math.sqrt(sum(float(l.var()) / len(l) for l in level))
    assert abs(float(level[0].mean() - level[1].mean())) < 4 * error


@pytest.fixture(scope="module")
def denoisers(bench):
    return sys.modules["denoisers"]


def test_the_denoiser_that_is_timed_learns_and_its_sampler_walks(denoisers):
    """Below the loss of a network that says nothing, which is the number of coordinates."""
    losses = list(islice(denoisers.lab_steps(), 200))
    assert sum(losses[-20:]) / 20 < 0.9 * denoisers.D < sum(losses[:5]) / 5
    xs = denoisers.lab_ddim(denoisers.network(), torch.randn(5, denoisers.D), 0.0, torch.linspace(1, 0, 51))
    assert len(xs) == 50 and xs[-1].shape == (5, denoisers.D)


@pytest.mark.peer
def test_the_peers_of_the_denoiser_learn_too(denoisers):
    pytest.importorskip("diffusers")
    for steps in (denoisers.diffusers_steps, denoisers.example_steps):
        losses = list(islice(steps(), 400))
        assert sum(losses[-20:]) / 20 < 0.95 * denoisers.D, steps


@pytest.mark.peer
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_step_of_ddim_is_that_of_diffusers(denoisers, eta):
    pytest.importorskip("diffusers")
    assert denoisers.furthest(eta) < 1e-6


@pytest.fixture(scope="module")
def flows(bench):
    return sys.modules["flows"]


@pytest.mark.parametrize("d", [2, 50])
def test_the_flow_that_is_timed_learns(flows, d):
    losses = list(islice(flows.lab_steps(256, d), 300))
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])  # 0.8 in fifty dimensions, where most of it is the floor


def test_the_world_model_that_is_timed_learns_as_the_network_beside_it_does(bench):
    for steps in sys.modules["worlds"].learners():
        losses = [row["loss"] for row in islice(steps, 20)]
        assert losses[-1] < losses[0] - 0.5


def test_the_layers_that_are_timed_learn(bench):
    losses = [row["loss"] for row in islice(sys.modules["scans"].learner(100, 1), 30)]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name, most", [("torch", 55), ("numba", 60)])
def test_a_scan_takes_a_few_times_its_input(bench, name, most):
    """Whose 4 sequences of 2,048 steps are 14 MB, as are the gradients; all states would be 67 MB, each time."""
    assert 28 < sys.modules["scans"].megabytes(name, 2048) < most


@pytest.mark.peer
def test_the_scans_that_are_timed_are_mambapys(bench):
    pytest.importorskip("mambapy")
    scans = sys.modules["scans"]
    theirs, *ours = (scans.both_ways(scan, scans.given(100)) for scan in scans.scans().values())
    for mine in ours:
        for one, other in zip(mine, theirs):
            assert (one - other).abs().max() < 2e-6 * other.abs().max()


@pytest.mark.peer
@pytest.mark.parametrize("d", [2, 50])
def test_torchcfm_learns_as_well_and_its_plans_cost_what_lab_s_pairs_do(flows, d):
    pytest.importorskip("torchcfm")
    both = [list(islice(steps(256, d), 300)) for steps in (flows.lab_steps, flows.torchcfm_steps)]
    ours, theirs = (sum(losses[-100:]) for losses in both)
    assert ours == pytest.approx(theirs, rel=0.1)
    ours, theirs = flows.costs(256, d)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.peer
def test_the_bench_prints_ratios_and_both_likelihoods():
    pytest.importorskip("scvi")
    out = subprocess.run(
        [sys.executable, str(BENCH), "--epochs", "1", "--repeats", "1", "--k", "5"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    for words in (
        *("fit, median, wall clock", "NB log-likelihood with gradient", "loader, one epoch", "nats"),
        *("IWAE, K = 50", "FactorVAE", "MIG + DCI", "lab, MALA", "sample_report"),
        *("training step, its example", "eta = 1.0: none of 50 steps differs", "a shuffled epoch takes"),
        *("pairs, 1024 in 50 dimensions", "training step, 256 in 2 dimensions", "torchcfm's plan by more than"),
        *("perturb.evaluate, 300 perturbations", "L = 18,432, wall clock, two threads", "layers of BiMamba"),
    ):
        assert words in out.stdout


@pytest.mark.peer
def test_the_likelihood_is_scvis():
    """scvi-tools adds 1e-8 inside its logarithms, so equality is to single precision only."""
    scvi = pytest.importorskip("scvi.distributions")
    from lab.dist import negative_binomial

    g = torch.Generator().manual_seed(0)
    mean, theta = torch.rand(50, 7, generator=g) * 5 + 0.01, torch.rand(7, generator=g) * 3 + 0.2
    x = torch.poisson(mean, generator=g)
    torch.testing.assert_close(
        negative_binomial(mean, theta).log_prob(x),
        scvi.NegativeBinomial(mu=mean, theta=theta).log_prob(x),
        rtol=1e-5,
        atol=1e-5,
    )
