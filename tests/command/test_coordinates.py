"""`train ddpm`, `flow` and `ebm`, `sample`, `report`: one line from counts to counts, and what a run says of itself."""

import functools
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import lines, simulated, written
from scipy import sparse
from torch.distributions import MultivariateNormal

from lab import denoise, path
from lab.command import cell_flow, folder, main
from lab.command.cell_diffusion import CellDiffusion
from lab.command.cell_energy import CellEnergy
from lab.command.cell_flow import CellFlow
from lab.command.in_coordinates import remembered
from lab.command.parts import gather
from lab.data import minibatch
from lab.nets import MLP, ConditionEmbedding, Coordinates

LONG = ["--n-hidden", "64", "--coordinates", "5", "--epochs", "150", "--lr", "0.005", "--patience", "150"]
SHORT = ["--n-hidden", "8", "--epochs", "1"]


def shifted(cells):
    """On day 1 the odd genes are tenfold, and all are thinned to the depth from before: depth says nothing of a day."""
    counts = cells.layers["counts"].toarray()
    more = counts.copy()
    more[np.ix_(cells.obs["batch"] == "day 1", np.arange(50) % 2 == 1)] *= 10
    kept = counts.sum(1, keepdims=True) / more.sum(1, keepdims=True)
    cells.layers["counts"] = sparse.csr_matrix(np.random.default_rng(0).binomial(more, kept).astype(np.int32))


TOLD = ["--condition", "batch", "--condition", "cell_type"]
DIFFUSED = {"ddpm": TOLD, "flow": TOLD, "flow --couple": TOLD}
MODELLED = DIFFUSED | {"ebm": ["--epochs", "50"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name -> (the file, the run) of a model that is told the batch and the type, where it can be; trained once."""

    @functools.cache
    def run(name):
        place, (model, *more) = tmp_path_factory.mktemp("run"), name.split()
        file = written(place, shifted, n_cells=300, n_genes=50)
        assert main(lines(file, place / "run", *LONG, *MODELLED[name], *more, model=model)) == 0
        return file, place / "run"

    return run


@pytest.fixture(params=DIFFUSED)
def diffused(request, runs):
    """What follows labels."""
    return runs(request.param)


@pytest.fixture(params=MODELLED)
def modelled(request, runs):
    """What draws coordinates."""
    return runs(request.param)


def drawn(run, out, *options):
    assert main(["sample", str(run), "--out", str(out), *options]) == 0
    return ad.read_h5ad(out)


def counts(cells):
    return cells.layers["counts"].toarray()


def untrained(conditions=None, n=5, way=None):
    """A model fitted to 60 small cells, its network as it began; and these cells as one minibatch."""
    b = minibatch(simulated(60, 50), *(conditions or {}))
    embed = ConditionEmbedding(conditions or {}, numbers={"log_library": 1}, null=True)
    net = MLP(n, n, n_hidden=16, embed=embed)
    return CellDiffusion(Coordinates(50, n), denoise.Denoiser(net, way or path.cosine()), conditions or {}).fit([b]), b


def test_held_out_cells_are_described_better_than_at_first_and_by_the_loss_that_stopped_the_training(diffused):
    _, run = diffused
    record, metrics = json.loads((run / "run.json").read_text()), pd.read_csv(run / "metrics.csv")
    seen = metrics["val_loss"].dropna()
    assert seen.min() < 0.75 * seen.iloc[0]
    assert record["results"]["held-out loss"] == pytest.approx(seen.min(), rel=1e-5)
    assert 0.2 < record["results"]["nearer to training"] < 0.8


def test_drawn_cells_have_the_genes_the_depths_and_the_scatter_of_training_cells_that_went_to_coordinates_and_back(
    diffused, tmp_path
):
    """What the way there and back costs is the map's, and tested with it."""
    file, run = diffused
    new, real = drawn(run, tmp_path / "new.h5ad", "--n", "2000"), ad.read_h5ad(file)
    assert np.issubdtype(new.layers["counts"].dtype, np.integer) and list(new.var_names) == list(real.var_names)
    x, library = torch.tensor(counts(real)).float(), torch.tensor(np.log(counts(real).sum(1, keepdims=True))).float()
    model, _ = folder.reopen(run)
    torch.manual_seed(0)
    back = np.concatenate([model.coordinates.draw(model.coordinates(x), library).numpy() for _ in range(7)])
    share = [cells / cells.sum(1, keepdims=True) for cells in (counts(new), back)]
    ratio, spread = (np.log(f(share[0], 0) / f(share[1], 0)) for f in (np.mean, np.std))
    assert np.abs(ratio).max() < 0.4 and np.abs(ratio).mean() < 0.12  # of genes that differ twentyfold
    assert np.abs(spread).mean() < 0.15 and abs(spread.mean()) < 0.1
    asked, total = new.obs["log_library"].to_numpy(), counts(new).sum(1)  # which a negative binomial scatters
    assert np.corrcoef(asked, np.log(total))[0, 1] > 0.5 and abs(np.log(total.mean() / np.exp(asked).mean())) < 0.05


def moved(run, folder, *scale):
    """By how much more the odd genes rise on day 1 than the others, in logarithms; 2.3 among training
    cells, 2.0 among these once they went to coordinates and back."""
    share = []
    for day in ("day 0", "day 1"):
        new = drawn(run, folder / f"{day}{len(scale)}.h5ad", "--n", "600", "--condition", f"batch={day}", *scale)
        assert (new.obs["batch"] == day).all()
        share.append(counts(new).sum(0) / counts(new).sum())
        (folder / f"{day}{len(scale)}.h5ad").unlink()
    up, odd = np.log(share[1] / share[0]), np.arange(50) % 2 == 1
    return up[odd].mean() - up[~odd].mean()


def test_a_scale_of_one_follows_the_labels_none_ignores_them_and_more_exaggerates(diffused, tmp_path):
    one, none, more = (moved(diffused[1], tmp_path, *scale) for scale in ((), ("--scale", "0"), ("--scale", "2")))
    least = 1.8 if folder.reopen(diffused[1])[1]["arguments"]["model"] == "ddpm" else 1.6
    assert (
        least < one < 2.4 and abs(none) < 0.3 and more > one + 0.3
    )  # three seeds: ddpm 1.93 to 2.00, flow 1.77 to 2.06


def test_the_file_says_by_which_scale_it_was_drawn(diffused, tmp_path):
    new = drawn(diffused[1], tmp_path / "new.h5ad", "--n", "5", "--condition", "batch=day 1", "--scale", "1.5")
    assert new.uns["sample"]["scale"] == 1.5 and new.uns["sample"]["model"] in ("ddpm", "flow")


def test_the_seed_fixes_the_cells(modelled, tmp_path):
    first, same, other = (
        counts(drawn(modelled[1], tmp_path / f"{i}.h5ad", "--n", "50", "--seed", seed)) for i, seed in enumerate("334")
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.3


def test_train_sample_and_report_are_one_line_of_commands(modelled, tmp_path):
    file, run = modelled
    cells, held_out = ad.read_h5ad(file), ad.read_h5ad(run / "coordinates.h5ad").obs["held_out"].to_numpy()
    held_out[:60] = True  # 30 held-out cells alone are too few for a table of 300 lines
    for name, some in (("real", held_out), ("train", ~held_out)):
        cells[some].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    drawn(run, tmp_path / "new.h5ad", "--n", "200")
    words = [str(tmp_path / "real.h5ad"), str(tmp_path / "new.h5ad"), "--out", str(tmp_path / "judged")]
    label = ["--label", "cell_type"] if "cell_type" in ad.read_h5ad(tmp_path / "new.h5ad").obs else []
    assert main(["report", *words, "--train", str(tmp_path / "train.h5ad"), *label]) == 0
    table = pd.read_csv(tmp_path / "judged" / "report.csv", index_col=0)
    apart = table.loc["energy distance"]
    assert apart["value"] < apart["ceiling"] + 0.6 * (apart["floor"] - apart["ceiling"])
    assert table.loc["copies", "value"] == 0 and (not label or table.loc["accuracy on real cells", "value"] > 0.8)


def test_an_energy_of_two_types_describes_held_out_cells_better_than_one_gaussian(runs):
    file, run = runs("ebm")
    record, metrics = json.loads((run / "run.json").read_text()), pd.read_csv(run / "metrics.csv")
    model, _ = folder.reopen(run)
    z = model.coordinates(torch.tensor(counts(ad.read_h5ad(file))).float())
    held_out = torch.tensor(ad.read_h5ad(run / "coordinates.h5ad").obs["held_out"].to_numpy())
    seen = z[~held_out]
    gaussian = MultivariateNormal(seen.mean(0), seen.T.cov()).log_prob(z[held_out]).mean().item()
    log_p = record["results"]["held-out log p, nats a coordinate"] * 5
    assert log_p > gaussian + 0.2
    assert metrics["val_loss"].min() == pytest.approx(-log_p, abs=0.3), "by fewer temperatures"


def test_the_coordinates_that_are_left_are_the_model_s_own_of_the_cells_in_their_order(modelled):
    file, run = modelled
    cells, left = ad.read_h5ad(file), ad.read_h5ad(run / "coordinates.h5ad")
    model, record = folder.reopen(run)
    z = model.coordinates(torch.tensor(counts(cells)).float())
    np.testing.assert_allclose(left.obsm["X_coordinates"], z, rtol=1e-4, atol=1e-4)
    assert list(left.obs_names) == list(cells.obs_names) and left.obs["held_out"].sum() == 30
    fitted = Coordinates(50, 5).fit(counts(cells)[~left.obs["held_out"].to_numpy()])
    torch.testing.assert_close(model.coordinates.axes, fitted.axes, rtol=1e-3, atol=1e-4)  # of training cells alone


def test_two_validations_of_the_same_weights_are_the_same_number(tmp_path):
    line = lines(written(tmp_path), tmp_path / "run", *SHORT, "--epochs", "4", "--lr", "1e-12", model="ddpm")
    assert main(line) == 0
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["val_loss"].dropna().std() < 1e-4 < metrics["loss"].std()


def test_eight_noises_make_the_held_out_loss_as_quiet_as_eight_times_the_cells():
    model, b = untrained()
    torch.manual_seed(0)
    quiet = torch.stack([model.eval().loss(b)["loss"] for _ in range(200)]).detach()
    loud = torch.stack([model.train().loss(b)["loss"] for _ in range(200)]).detach()
    assert quiet.mean().item() == pytest.approx(loud.mean().item(), rel=0.05)
    assert 5 < loud.var() / quiet.var() < 13


def test_a_tenth_of_the_training_cells_lose_all_conditions_together_and_held_out_cells_none(monkeypatch):
    levels = {"batch": 3, "cell_type": 2}
    model, b = untrained(levels)
    told = []
    monkeypatch.setattr(model.denoiser, "predict", lambda x, t, cond: told.append(cond) or torch.zeros_like(x))
    for _ in range(100):
        model.train().loss(b)
    gone = torch.stack([cond["batch"] for cond in told]) == -1
    assert 0.08 < gone.double().mean() < 0.12
    assert torch.equal(gone, torch.stack([cond["cell_type"] for cond in told]) == -1)
    model.eval().loss(b)
    assert torch.equal(told[-1]["batch"], b["batch"].repeat(8)) and len(told[-1]["log_library"]) == 8 * 60


def test_a_network_is_told_depth_in_standard_units_and_counts_come_back_at_the_depth_itself():
    model, b = untrained()
    told = model.told(b)["log_library"]
    assert abs(told.mean()) < 1e-5 and abs(told.std() - 1) < 1e-5
    deep = b | {"log_library": torch.full((60, 1), 9.0)}
    assert model.draw(deep).sum(1).log().mean().item() == pytest.approx(9, abs=0.15)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_sampler_begins_with_the_noise_of_its_first_time_and_takes_a_hundred_steps_down(name, monkeypatch):
    model, b = untrained(way=getattr(path, name)())
    seen = []
    monkeypatch.setattr(model.denoiser, "predict", lambda x, t, cond: seen.append((x, float(t))) or torch.zeros_like(x))
    model.draw({"log_library": torch.full((4000, 1), 6.0)})
    (x, first), times = seen[0], [t for _, t in seen]
    assert x.std().item() == pytest.approx(model.denoiser.path.sigma(torch.tensor(first)).item(), rel=0.02)
    assert len(times) == 101 and times == sorted(times, reverse=True) and first > 0.97 and times[-1] < 0.02


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_with_the_exact_denoiser_of_a_gaussian_the_bound_is_below_its_density_and_near_it_and_draws_are_of_it(name):
    model, b = untrained()
    z = model.coordinates(b["x"])
    cov = z.T.cov().double()
    model.denoiser = denoise.gaussian(getattr(path, name)(), torch.zeros(5).double(), cov)
    torch.manual_seed(0)
    bounds = torch.stack([model.bound(b) for _ in range(30)]).mean(0)
    density = MultivariateNormal(torch.zeros(5).double(), cov).log_prob(z.double()) / 5
    gap = (density - bounds).mean()
    assert 0.1 < gap < 0.4  # a hundred steps cost so much; it falls like one over their number
    many = {"log_library": torch.full((4000, 1), 12.0)}  # so deep that counting adds nothing
    seen = []
    model.coordinates.draw = lambda z, log_library: seen.append(z)
    model.draw(many)
    torch.testing.assert_close(seen[0].T.cov().double(), cov, rtol=0.15, atol=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "vp", "linear"])
@pytest.mark.parametrize("predicts", ["eps", "x0", "velocity"])
def test_every_prediction_goes_with_every_schedule_from_counts_to_counts(schedule, predicts, tmp_path):
    options = ["--n-hidden", "32", "--epochs", "40", "--lr", "0.005", "--schedule", schedule, "--predicts", predicts]
    assert main(lines(written(tmp_path, n_cells=200), tmp_path / "run", *options, model="ddpm")) == 0
    seen = pd.read_csv(tmp_path / "run" / "metrics.csv")["val_loss"].dropna()
    assert seen.min() < 0.97 * seen.iloc[0]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["schedule"] == schedule and record["arguments"]["predicts"] == predicts
    model, _ = folder.reopen(tmp_path / "run")
    t = torch.tensor(0.3)
    assert model.denoiser.predicts == predicts and model.denoiser.path.alpha(t) == getattr(path, schedule)().alpha(t)
    assert counts(drawn(tmp_path / "run", tmp_path / "new.h5ad", "--n", "20")).sum() > 0


@pytest.mark.parametrize("options, n", [(["--preset", "large"], 0), (["--preset", "large", "--coordinates", "4"], 4)])
def test_the_large_preset_attends_among_genes_or_components_and_is_drawn_from(options, n, tmp_path):
    line = lines(written(tmp_path, n_cells=40), tmp_path / "run", *SHORT, *options, model="ddpm")
    assert main(line) == 0
    model, _ = folder.reopen(tmp_path / "run")
    assert type(model.denoiser.net).__name__ == "GeneAttention" and len(model.denoiser.net.blocks) == 6
    assert model.coordinates.n == n and model.coordinates.n_out == (n or 10)
    new = counts(drawn(tmp_path / "run", tmp_path / "new.h5ad", "--n", "20"))
    assert new.shape == (20, 10) and new.sum() > 0
    assert len(ad.read_h5ad(tmp_path / "run" / "coordinates.h5ad").obsm) == (n > 0)


class Repeats(CellDiffusion):
    """Draws the given counts over and over."""

    def __init__(self, x):
        super().__init__(Coordinates(50, 5), denoise.Denoiser(MLP(5, 5), path.cosine()))
        self.x = x

    def draw(self, b):
        return self.x[torch.arange(len(b["x"])) % len(self.x)]


def test_a_model_that_repeats_training_cells_is_seen_and_one_that_draws_new_ones_is_not(tmp_path):
    wanted = {"layer": None, "validation": 0.3, "seed": 0, "conditions": [], "genes": "all", "size": 64}
    cells = gather(str(written(tmp_path, n_cells=600, n_genes=50)), wanted)
    x = torch.tensor(counts(cells.adata)).float()
    new = torch.tensor(counts(simulated(900, 50))[600:]).float()  # not the same cells, but of the same law
    torch.manual_seed(0)
    near = {name: remembered(Repeats(some), cells) for name, some in {"train": x[~cells.held_out], "new": new}.items()}
    assert near["train"] > 0.65 and abs(near["new"] - 0.5) < 0.12
    assert remembered(Repeats(x[cells.held_out]), cells) < 0.05


def test_a_run_that_remembers_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lab.command.in_coordinates.remembered", lambda model, cells: 0.97)
    assert main(lines(written(tmp_path, n_cells=300), tmp_path / "run", *SHORT, model="ddpm")) == 0
    assert "97% of drawn cells lie nearer to a training cell" in capsys.readouterr().out


@pytest.mark.real
def test_real_cells_that_are_drawn_beat_the_floor_of_profiles_and_carry_their_type(tmp_path):
    run, told = tmp_path / "run", ["--condition", "cell_type", "--condition", "perturbation"]
    assert main(lines("kang", run, "--epochs", "40", *told, model="ddpm")) == 0
    from lab import data, metrics

    held_out = ad.read_h5ad(run / "coordinates.h5ad").obs["held_out"].to_numpy()
    cells = data.kang()[:, (run / "genes.txt").read_text().split("\n")[:-1]].copy()
    new = drawn(run, tmp_path / "new.h5ad", "--n", "500")
    table = metrics.sample_report(cells[held_out], new, train=cells[~held_out], label="cell_type")
    # three seeds: 0.29 to 0.61, 0.43 to 0.52, 0.79, 0.67 to 0.71; gene means and programmes are no better than profiles
    most = {"energy distance": 0.8, "Fréchet distance": 0.65, "classifier AUC": 0.85, "co-expression": 0.8}
    for row, share in most.items():
        assert table.loc[row, "value"] < share * table.loc[row, "floor"], row
    assert table.loc["accuracy on real cells", "value"] > 0.62  # 0.71 to 0.82; profiles 0.65 to 0.73


def flowing(net, n=5, **how):
    """A flow with this velocity, fitted to 60 small cells; and these."""
    b = minibatch(simulated(60, 50), *how.get("conditions", ()))
    return CellFlow(Coordinates(50, n), net, **how).fit([b]), b


def gaussian_velocity(cov):
    """The exact velocity of N(0, cov), along its axes."""
    lam, axes = torch.linalg.eigh(cov)

    def net(x, t, b=None):
        t = t.expand(len(x))[:, None]
        return x @ axes * ((t - (1 - t) * lam) / ((1 - t) ** 2 * lam + t**2)) @ axes.T

    return net


def test_with_the_exact_velocity_of_a_gaussian_log_p_is_its_density_and_every_sampler_draws_from_it():
    model, b = flowing(None)
    z = model.coordinates(b["x"])
    model.denoiser.net = gaussian_velocity(z.T.cov())
    torch.manual_seed(0)
    log_p = torch.stack([model.bound(b) for _ in range(50)]).mean(0)
    density = MultivariateNormal(torch.zeros(5), z.T.cov()).log_prob(z) / 5
    torch.testing.assert_close(log_p, density, atol=0.02, rtol=0)
    many = {"log_library": torch.full((20_000, 1), 6.0)}
    for how in ({}, {"sampler": "euler", "evaluations": 200}, {"sampler": "dopri"}):
        torch.testing.assert_close(model.points(many, **how).T.cov(), z.T.cov(), rtol=0.05, atol=0.04)


@pytest.mark.parametrize("sampler, asked, made", [("euler", 7, 7), ("heun", 8, 8), ("heun", 9, 8), ("heun", None, 32)])
def test_a_flow_asks_its_network_as_often_as_it_is_told(sampler, asked, made):
    seen = []
    model, b = flowing(lambda x, t, b: seen.append(t[0].item()) or torch.zeros_like(x))
    model.points(b, sampler=sampler, evaluations=asked)
    assert len(seen) == made and seen[0] == 1 and sorted(seen, reverse=True) == seen


def test_coupling_is_within_labels_and_repeats_near_in_depth_and_of_least_cost(monkeypatch):
    model, _ = flowing(None, conditions=("batch",), couple=True)
    torch.manual_seed(0)
    depth, batch = torch.randn(400, 1), torch.arange(400) % 2
    b = {"x": torch.randn(400, 5) + 2 * depth, "log_library": depth, "batch": batch}
    draw = lambda: (torch.manual_seed(1), torch.randn(400, 5))[1]
    monkeypatch.setattr(torch, "randn_like", lambda x: draw())
    x1, random = model.train().noise(b), draw()
    for level in (0, 1):
        assert set(x1[batch == level, 0].tolist()) == set(random[batch == level, 0].tolist())
    told = lambda x: abs(np.corrcoef(depth[:, 0], x.sum(1))[0, 1])
    apart = lambda x: (b["x"] - x).square().sum(1).mean()
    assert told(x1) < 0.2 and apart(x1) < apart(random) - 1
    monkeypatch.setattr(cell_flow, "APART", 0.0)
    assert told(model.noise(b)) > 0.8, "and the flow would think that noise tells the depth"
    x1 = model.eval().noise(b)
    for part in range(8):
        assert set(x1[50 * part : 50 * (part + 1), 0].tolist()) == set(random[50 * part : 50 * (part + 1), 0].tolist())


def energetic(net):
    """An energy with this net, fitted to 60 small cells; and these."""
    b = minibatch(simulated(60, 50))
    return CellEnergy(Coordinates(50, 5), net, step=0.02, n_steps=3).fit([b]), b


class Bowl(torch.nn.Module):
    """With the energy of N(0, I) it makes that of N(0, I / 4)."""

    def __init__(self):
        super().__init__()
        self.depth = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.depth * x.square().sum(-1, keepdim=True)


def test_of_an_energy_that_is_a_gaussian_s_log_p_is_the_density_and_both_chains_draw_from_it():
    model, b = energetic(Bowl())
    z = model.coordinates(b["x"])
    torch.manual_seed(0)
    density = MultivariateNormal(torch.zeros(5), torch.diag(model.spread**2) / 4).log_prob(z).mean() / 5
    assert model.evidence([b]) == pytest.approx(density.item(), abs=0.01)
    assert model.eval().loss(b)["loss"].item() == pytest.approx(-5 * density.item(), abs=0.3)
    many = {"log_library": torch.full((20_000, 1), 6.0)}
    for how, var in (({}, 0.25 / (1 - 0.02 * 2)), ({"sampler": "hmc"}, 0.25)):  # Langevin's step widens by h / 2 var
        drawn = model.points(many, **how) / model.spread
        torch.testing.assert_close(drawn.var(0), torch.full((5,), var), rtol=0.08, atol=0)


def test_chains_go_on_from_step_to_step_and_what_is_judged_is_an_average_of_the_weights():
    model, b = energetic(Bowl())
    before = model.chains.clone()
    model.train().loss(b)
    moved = (model.chains != before).any(1)
    assert moved.sum() == 60 and model.taken == 1
    with torch.no_grad():
        model.energy.net.depth.fill_(3.0)
    for _ in range(5):
        model.loss(b)
    assert 1.5 < model.average.net.depth < 3.0 and not model.average.net.depth.requires_grad
    x = model.coordinates(b["x"]) / model.spread
    torch.testing.assert_close(model.average(x), (model.average.net.depth + 0.5) * x.square().sum(1))
    assert {"chains", "average.net.depth", "taken"} <= set(model.state_dict())
