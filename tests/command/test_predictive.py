"""`train jepa` and `train rssm`, `embed` and `predict` on what they wrote."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import assert_same_results, lines, written
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestCentroid

from lab import data, jepa
from lab.command import folder, main
from lab.command.cell_series import CellSeries
from lab.command.masked_genes import KEEPS, MaskedGenes, results, view
from lab.command.parts import gather as gather_cells
from lab.command.row_pairs import RowPairs
from lab.command.series import gather, read

OF = {"track": "trajectory", "time": "time", "action": ["action"], "window": None}
TOLD = ["--track", "trajectory", "--time", "time", "--action", "action"]


def test_half_a_cell_and_a_deeper_one_look_as_the_whole_does_on_average_and_nothing_seen_is_0():
    x, mask = torch.poisson(torch.full((40, 30), 4.0)), (torch.rand(40, 30) < 0.5).float()
    torch.testing.assert_close(view(7 * x, mask), view(x, mask))
    by_mean = x / x.mean(1, keepdim=True)
    torch.testing.assert_close(view(x, torch.ones_like(x)), by_mean.log1p())
    many = torch.stack([view(x, (torch.rand(40, 30) < 0.5).float()) for _ in range(800)]).mean(0)
    torch.testing.assert_close(many, by_mean.log1p(), atol=0.3, rtol=0)
    assert not view(x, 0 * mask).any() and not view(x * (1 - mask), mask).any()


@pytest.mark.parametrize("keeps", KEEPS)
def test_an_embedding_of_halves_is_held_open_tells_types_and_predicts_more_than_a_constant(keeps, tmp_path):
    path = written(tmp_path, n_cells=300, n_genes=50)
    options = ["--n-latent", "3", "--keeps", keeps, "--epochs", "60", "--lr", "0.01"]
    assert main(lines(path, tmp_path / "run", *options, model="jepa")) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert found["held-out prediction error"] < 0.85 * found["of a constant"]
    assert 0.2 < found["spread"] < 1.5
    z = ad.read_h5ad(tmp_path / "run" / "latent.h5ad")
    seen = z[~z.obs["held_out"].to_numpy()]
    types = NearestCentroid().fit(seen.obsm["X_jepa"], seen.obs["cell_type"])
    other = z[z.obs["held_out"].to_numpy()]
    assert types.score(other.obsm["X_jepa"], other.obs["cell_type"]) > 0.9
    assert set(KEEPS[keeps]) < set(pd.read_csv(tmp_path / "run" / "metrics.csv"))
    assert jepa.effective_rank(torch.tensor(z.obsm["X_jepa"])) == pytest.approx(found["effective rank"], rel=1e-4)


def test_a_collapsed_embedding_shows_in_every_number_of_a_run(tmp_path):
    wanted = {"layer": None, "validation": 0.3, "seed": 0, "conditions": [], "genes": "all", "size": 64}
    cells = gather_cells(str(written(tmp_path, n_cells=100)), wanted)
    model = MaskedGenes(10, 3, "variance")
    model.model.encoder.weight.data.zero_()
    with torch.no_grad():
        report, _ = results(model, cells)
    assert all(value == pytest.approx(0, abs=1e-6) for value in report.values()) and len(report) == 4


def test_a_single_cell_is_a_minibatch(tmp_path):
    assert main(lines(written(tmp_path), tmp_path / "run", "--size", "17", "--epochs", "1", model="jepa")) == 0


def shuffled(cells, seed=0):
    return cells[np.random.default_rng(seed).permutation(cells.n_obs)].copy()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """(the file, the run) of an rssm on sixty short lives of the simulator, its rows in no order."""
    place = tmp_path_factory.mktemp("course")
    shuffled(data.regulation(n_trajectories=60, n_steps=30, n_genes=20, depth=4000)).write_h5ad(place / "cells.h5ad")
    options = [*TOLD, "--n-hidden", "32", "--lr", "0.01", "--epochs", "10", "--size", "64", "--window", "12"]
    assert main(lines(place / "cells.h5ad", place / "run", *options, model="rssm")) == 0
    return place / "cells.h5ad", place / "run"


def record_of(run):
    return json.loads((run / "run.json").read_text())


def test_later_halves_of_held_out_tracks_are_imagined_better_than_they_are_guessed_and_bands_hold_nine_in_ten(course):
    found, table = record_of(course[1])["results"], pd.read_csv(course[1] / "horizons.csv", index_col="blind steps")
    assert found["held-out bound, nats a row"] > found["of genes by themselves"] + 0.8
    assert found["squared error"] < 0.95 * found["mean of training rows"] < 0.6 * found["last value stays"]
    assert 0.86 < found["within the 90 % band"] < 0.94
    assert list(table.index) == list(range(1, 16)) and (table["rows"] == 6).all()
    assert table["squared error"].mean() == pytest.approx(found["squared error"], rel=1e-5)
    metrics = pd.read_csv(course[1] / "metrics.csv")["val_loss"].dropna()
    assert -metrics.min() == pytest.approx(found["held-out bound, nats a row"], abs=0.3)


def test_a_track_is_held_out_whole_and_windows_are_all_that_fit_into_one(course):
    file, _ = course
    wanted = {"layer": None, "validation": 0.1, "seed": 0, "conditions": [], "genes": "all", "size": 7} | OF
    cells = gather(str(file), wanted | {"window": 12})
    obs = cells.adata.obs
    assert obs.groupby("trajectory")["time"].size().eq(31).all()
    per_track = pd.Series(cells.held_out, obs.index).groupby(obs["trajectory"]).mean()
    assert set(per_track) == {0, 1} and per_track.sum() == 6
    counts = cells.adata.layers["counts"].toarray()
    seen = {(held, row.tobytes()) for held, row in zip(cells.held_out, counts.astype(np.float32))}
    for held, loader in ((False, cells.trained()), (True, cells.tested)):
        windows = torch.cat([b["x"] for b in loader]).numpy()
        assert windows.shape == (20 * (6 if held else 54), 12, 20)
        assert all((held, row.tobytes()) in seen for row in windows.reshape(-1, 20))
    rows = obs.assign(row=range(len(obs))).sort_values(["trajectory", "time"])["row"].to_numpy().reshape(60, 31)
    np.testing.assert_array_equal(np.sort(np.stack(cells.tracks), 0), np.sort(rows, 0))
    first = torch.cat([b["x"] for b in cells.tested])[:20]
    track = next(of for of in cells.tracks if cells.held_out[of[0]])
    np.testing.assert_array_equal(first[3], counts[track[3:15]])
    assert len(cells.depths()) == 54 * 31 == len(cells.known().batches.dataset)


def test_what_led_to_a_row_is_the_time_since_the_one_before_and_the_doses(course):
    cells = ad.read_h5ad(course[0])[:, :5].copy()
    cells.obs["time"] = cells.obs["time"] ** 2 / 2
    cells.obs["action"] = cells.obs["dose"]
    found = read(cells, OF | {"action": ["dose"]})
    assert found.told == ["since the row before", "dose"] and len(found.tracks) == 60
    for rows in found.tracks.values():
        steps = cells.obs["time"].to_numpy()[rows]
        np.testing.assert_allclose(steps, np.arange(31) ** 2 / 2)
        np.testing.assert_allclose(found.action[rows, 0], np.diff(steps, prepend=steps[0]))
    np.testing.assert_allclose(found.action[:, 1], cells.obs["dose"], rtol=1e-6)
    del cells.obs["action"]
    np.testing.assert_array_equal(read(cells, OF).action[:, 1:], cells.obsm["action"])


def test_the_unit_of_a_dose_is_of_no_account():
    b = {"x": torch.poisson(torch.full((8, 3, 5), 4.0)), "action": torch.randn(8, 3, 2)}
    rows = {name: value.flatten(0, 1) for name, value in b.items()}
    told, between = [], []
    for unit in (1.0, 1000.0):
        model = CellSeries(5, 2, n_latent=2, n_hidden=4).fit([rows | {"action": unit * rows["action"]}])
        told.append(model.told(b | {"action": unit * b["action"]})["actions"])
        pairs = RowPairs(5, 2, 2, "variance").fit([rows | {"action": unit * rows["action"]}])
        i = torch.zeros(8, 1, dtype=torch.int64)
        between.append(pairs.pairs(b | {"action": unit * b["action"]}, i, i + 2)["action"])
    torch.testing.assert_close(*told)
    torch.testing.assert_close(*between)
    torch.testing.assert_close(told[0].abs().amax((0, 1)), torch.ones(2))


def embedded(run, cells, place, name="z.h5ad"):
    cells.write_h5ad(place / f"of-{name}")
    assert main(["embed", str(run), str(place / f"of-{name}"), "--out", str(place / name)]) == 0
    return ad.read_h5ad(place / name)


def test_a_row_s_state_is_of_its_own_track_up_to_it(course, tmp_path):
    file, run = course
    cells, latent = ad.read_h5ad(file), ad.read_h5ad(run / "latent.h5ad")
    some = shuffled(cells[(cells.obs["trajectory"] < 3) & (cells.obs["time"] < 9)], seed=1)
    new = embedded(run, some, tmp_path)
    assert list(new.obs_names) == list(some.obs_names) and new.obsm["X_rssm"].shape == (27, 42)
    np.testing.assert_allclose(new.obsm["X_rssm"], latent[new.obs_names].obsm["X_rssm"], rtol=1e-3, atol=1e-4)
    other = some.copy()
    counts = other.layers["counts"].toarray()
    early = (other.obs["trajectory"] == 0).to_numpy() & (other.obs["time"] == 2).to_numpy()
    counts[early] = counts[early][:, ::-1]
    other.layers["counts"] = counts
    moved = np.abs(embedded(run, other, tmp_path, "moved.h5ad").obsm["X_rssm"] - new.obsm["X_rssm"]).max(1) > 1e-3
    expected = (some.obs["trajectory"] == 0).to_numpy() & (some.obs["time"] >= 2).to_numpy()
    assert moved[early].all() and not moved[~expected].any() and moved[expected].sum() > 3


def foretold(run, cells, place, *times, name="ahead.h5ad", seed="0"):
    cells.write_h5ad(place / f"of-{name}")
    asked = [word for time in times for word in ("--condition", f"after={time}")]
    line = ["predict", str(run), str(place / f"of-{name}"), *asked, "--out", str(place / name), "--seed", seed]
    assert main(line) == 0
    return ad.read_h5ad(place / name)


def test_rows_after_a_time_are_predicted_from_doses_alone_as_well_as_the_run_says(course, tmp_path):
    file, run = course
    cells, held_out = ad.read_h5ad(file), ad.read_h5ad(run / "latent.h5ad").obs["held_out"].to_numpy()
    some = cells[held_out].copy()
    later = (some.obs["time"] > 15).to_numpy()
    counts = some.layers["counts"].toarray()
    counts[later] = 0  # not measured yet
    some.layers["counts"] = counts
    new = foretold(run, some, tmp_path, 15)
    assert list(new.obs_names) == list(some.obs_names[later]) and set(new.obs["predicted_after"]) == {15.0}
    truth, model = cells[new.obs_names], folder.reopen(run)[0]
    scale = model.coordinates.scale.numpy()
    x = model.coordinates(torch.tensor(truth.layers["counts"].toarray()).float()).numpy() * scale
    x += model.coordinates.mean.numpy()
    error = (((new.X - x) / scale) ** 2).mean()
    assert error == pytest.approx(record_of(run)["results"]["squared error"], rel=0.02)
    inside = ((x > new.layers["low"]) & (x < new.layers["high"])).mean()
    assert inside == pytest.approx(record_of(run)["results"]["within the 90 % band"], abs=0.02)

    idle = some.copy()
    idle.obsm["action"] = np.where(later[:, None], 0.0, idle.obsm["action"])
    calm = foretold(run, idle, tmp_path, 15, name="calm.h5ad")
    assert np.abs(calm.X - new.X).max() > 0.2, "another treatment, another prediction"
    both = foretold(run, cells[held_out].copy(), tmp_path, 15, 25, name="both.h5ad")
    assert list(both.obs["predicted_after"]) == [15.0] * 90 + [25.0] * 30 and both.obs_names.is_unique
    np.testing.assert_array_equal(both.X[:90], new.X)


def test_what_is_foretold_is_what_the_library_s_filter_and_imagination_say(course):
    model, _ = folder.reopen(course[1])
    cells = ad.read_h5ad(course[0])
    found = read(cells, OF)
    rows = torch.tensor(np.stack(list(found.tracks.values())[:3]))
    x = torch.tensor(cells.layers["counts"].toarray()).float()
    b = {"x": x[rows], "action": found.action[rows]}
    seen = (torch.arange(31) < 10).expand(3, -1)
    torch.manual_seed(0)
    mine = torch.stack([model.foretold(b, seen) for _ in range(10)]).mean(0)
    told = {name: value.repeat(1000, 1, 1) for name, value in model.told(b).items()}
    with torch.no_grad():
        state = model.rssm.filter(told["obs"][:, :10], told["actions"][:, :10])
        law = model.rssm.imagine(tuple(part[:, -1] for part in state), told["actions"][:, 10:])
    mean = law.mean.view(1000, 3, 21, 20).mean(0)
    assert (mean - mine[0, :, 10:]).abs().max() < 6 * law.mean.view(1000, 3, 21, 20).std(0).max() / 990**0.5
    ends = law.sample().view(1000, 3, 21, 20).quantile(torch.tensor([0.05, 0.95]), 0)
    torch.testing.assert_close(mine[1:, :, 10:], ends, atol=0.6, rtol=0)
    assert abs((mine[1:, :, 10:] - ends).mean()) < 0.03


def test_tracks_of_different_lengths_and_no_actions_at_all(tmp_path, capsys):
    def ragged(cells):
        return cells[(cells.obs["well"] != "well 3") | (cells.obs["hour"] < 3)].copy()

    path = written(tmp_path, ragged, n_cells=60)
    line = lines(path, run := tmp_path / "run", "--track", "well", "--time", "hour", "--epochs", "1", model="rssm")
    assert main(line) == 0 and record_of(run)["results"]["rows a window"] == 3
    assert main(line) == 0 and f"{run} is finished" in capsys.readouterr().out
    assert record_of(run)["conditions"] == {"action": ["since the row before"]}
    alone = ad.read_h5ad(path)
    few = alone[(alone.obs["well"] == "well 3").to_numpy()].copy()
    both = embedded(run, few, tmp_path), ad.read_h5ad(run / "latent.h5ad")[few.obs_names]
    np.testing.assert_allclose(both[0].obsm["X_rssm"], both[1].obsm["X_rssm"], rtol=1e-4, atol=1e-5)
    new = foretold(run, alone, tmp_path, 1)
    assert new.n_obs == 9 * 4 + 1


TURN = 0.97 * np.array([[0.9, -0.3], [0.3, 0.9]])  # of a state in an hour
KICK = np.array([0.3, 0.15])  # what a dose adds to it
IN_TIME = ["--track", "dish", "--time", "minute", "--action", "dose"]


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    """(the file, the run) of a jepa on eighty dishes at twelve hours, whose state turns and is kicked by coins."""
    place, random = tmp_path_factory.mktemp("turning"), np.random.default_rng(0)
    dose, z = random.choice([-2.0, 2.0], (80, 12)), [random.normal(size=(80, 2))]
    for hour in range(1, 12):
        z.append(z[-1] @ TURN.T + dose[:, hour, None] * KICK + 0.1 * random.normal(size=(80, 2)))
    z = np.stack(z, 1).reshape(-1, 2)
    rate = np.exp(0.4 * z @ random.normal(size=(2, 20)))
    obs = {"dish": np.repeat(np.arange(80), 12), "minute": 1000 + np.tile(60 * np.arange(12), 80), "dose": dose.ravel()}
    counts = random.poisson(3000 * rate / rate.sum(1, keepdims=True))
    obs = pd.DataFrame(obs, [f"row {i}" for i in range(960)])
    shuffled(ad.AnnData(layers={"counts": counts}, obs=obs, obsm={"state": z})).write_h5ad(place / "cells.h5ad")
    options = [*IN_TIME, "--window", "6", "--n-latent", "2", "--lr", "0.01", "--epochs", "40"]
    assert main(lines(place / "cells.h5ad", place / "run", *options, model="jepa")) == 0
    return place / "cells.h5ad", place / "run"


def stands(run, cells, place, *conditions, name="later.h5ad"):
    cells.write_h5ad(place / f"of-{name}")
    asked = [word for condition in conditions for word in ("--condition", condition)]
    assert main(["predict", str(run), str(place / f"of-{name}"), *asked, "--out", str(place / name)]) == 0
    return ad.read_h5ad(place / name)


def test_where_a_dish_will_stand_is_where_its_world_takes_it(turning, tmp_path):
    latent, truth = ad.read_h5ad(turning[1] / "latent.h5ad"), ad.read_h5ad(turning[0])
    held_out = latent.obs["held_out"].to_numpy()
    state = LinearRegression().fit(latent.obsm["X_jepa"][~held_out], truth.obsm["state"][~held_out])
    some = truth[held_out].copy()
    for dose in (-2, 0, 2):
        new = stands(
            turning[1], some, tmp_path, *(f"gap={60 * k}" for k in (1, 3, 5)), f"dose={dose}", name=f"{dose}.h5ad"
        )
        expected = z = some.obsm["state"]
        for k in range(1, 6):
            expected = expected @ TURN.T + dose * KICK
            if k in (1, 3, 5):
                seen = state.predict(new[new.obs["predicted_gap"] == 60 * k].obsm["X_jepa"])
                assert ((seen - expected) ** 2).mean() < 0.15 * ((z - expected) ** 2).mean() + 0.05


def test_what_is_predicted_is_what_the_library_s_predictor_says_of_its_encoder(turning, tmp_path):
    cells, model = ad.read_h5ad(turning[0])[:50].copy(), folder.reopen(turning[1])[0]
    cells = cells[:, ::-1].copy()
    new = stands(turning[1], cells, tmp_path, "gap=0", "gap=150", "dose=0.5")
    x = torch.tensor(cells[:, ::-1].layers["counts"].astype(np.float32))
    z = model.model.encoder(x)
    for gap, part in ((0.0, new[:50]), (150.0, new[50:])):
        expected = model.model.predictor(z, {"action": torch.tensor([[gap / 60, 0.25]]).expand(50, -1)})
        np.testing.assert_allclose(part.obsm["X_jepa"], expected.detach(), rtol=1e-5, atol=1e-6)
        assert set(part.obs["predicted_gap"]) == {gap}
    assert list(new.obs_names) == [f"{name}-{gap}" for gap in ("0", "150") for name in cells.obs_names]
    one = stands(turning[1], cells, tmp_path, "gap=150", name="calm.h5ad")
    assert list(one.obs_names) == list(cells.obs_names) and not one.n_vars
    still = model.model.predictor(z, {"action": torch.tensor([[2.5, 0.0]]).expand(50, -1)}).detach()
    np.testing.assert_allclose(one.obsm["X_jepa"], still, rtol=1e-5, atol=1e-6)


def test_the_predictor_is_told_the_time_between_two_rows_and_the_mean_of_doses_since():
    time, dose = torch.tensor([[2.0, 3.0, 7.0, 7.5]]), torch.tensor([[9.0, 1.0, -2.0, 4.0]])
    b = {"x": torch.arange(4.0)[None, :, None], "action": torch.stack([time.diff(prepend=time[:, :1]), dose], -1)}
    i, j = torch.triu_indices(4, 4, 1)
    pair = RowPairs(1, 2, 1, "variance").pairs(b, i[None], j[None])
    torch.testing.assert_close(pair["action"][:, 0], time[0, j] - time[0, i])
    means = torch.stack([dose[0, a + 1 : z + 1].mean() for a, z in zip(i, j)])
    torch.testing.assert_close(pair["action"][:, 1], means)
    assert pair["context"].flatten().tolist() == i.tolist() and pair["target"].flatten().tolist() == j.tolist()


def test_two_rows_of_a_window_are_drawn_the_earlier_first_and_every_two_as_often(monkeypatch):
    model, drawn = RowPairs(1, 1, 1, "variance"), {}
    b = {"x": torch.arange(1, 5.0)[None, :, None].expand(6000, -1, -1), "action": torch.ones(6000, 4, 1)}
    monkeypatch.setattr(jepa, "loss", lambda model, pair, **terms: drawn.update(pair))
    torch.manual_seed(0)
    model.loss(b)
    found = torch.stack([drawn["context"], drawn["target"]], 1).flatten(1).unique(dim=0, return_counts=True)
    assert found[0].tolist() == [[i, j] for i in range(1, 5) for j in range(i + 1, 5)]
    assert (found[1] - 1000).abs().max() < 120


def test_a_run_on_rows_has_the_errors_of_every_two_rows_of_held_out_windows_beside_two_guesses(turning):
    found, latent = record_of(turning[1])["results"], ad.read_h5ad(turning[1] / "latent.h5ad")
    obs, model, errors = latent.obs, folder.reopen(turning[1])[0], []
    assert set(obs.groupby("dish")["held_out"].mean()) == {0, 1} and obs["held_out"].sum() == 96
    mean = torch.tensor(latent.obsm["X_jepa"][~obs["held_out"]].mean(0))
    every_two = [(start + i, start + j) for start in range(7) for i in range(6) for j in range(i + 1, 6)]
    for _, rows in obs[obs["held_out"]].sort_values("minute").groupby("dish"):
        z, dose = torch.tensor(latent[rows.index].obsm["X_jepa"]), rows["dose"].to_numpy()
        for i, j in every_two:
            told = torch.tensor([[j - i, dose[i + 1 : j + 1].mean() / 2]], dtype=torch.float32)
            guesses = model.model.predictor(z[[i]], {"action": told})[0].detach(), z[i], mean
            errors.append([((guess - z[j]) ** 2).mean().item() for guess in guesses])
    names = "held-out prediction error", "of a predictor that stands still", "of a constant"
    np.testing.assert_allclose(np.mean(errors, 0), [found[name] for name in names], rtol=1e-4)
    assert found[names[0]] < 0.5 * min(found[names[1]], found[names[2]])
    assert found["longest gap"] == 300 and found["rows a window"] == 6
    assert 0.8 < found["spread"] < 1.5 and found["effective rank"] > 1.8


def test_a_row_stands_where_it_did_in_training_whatever_is_known_of_its_track(turning, tmp_path):
    cells, latent = ad.read_h5ad(turning[0]), ad.read_h5ad(turning[1] / "latent.h5ad")
    cells.obs = cells.obs[["dose"]]
    new = embedded(turning[1], cells, tmp_path)
    np.testing.assert_array_equal(new.obsm["X_jepa"], latent.obsm["X_jepa"])


def test_a_jepa_of_rows_that_is_continued_is_that_which_was_never_stopped(tmp_path):
    path, told = written(tmp_path, n_cells=60), ["--track", "well", "--time", "hour", "--window", "3"]
    for out, *runs in (("grown", "2", "4"), ("long", "4")):
        for epochs in runs:
            assert main(lines(path, tmp_path / out, *told, "--size", "16", "--epochs", epochs, model="jepa")) == 0
    assert_same_results(tmp_path / "grown", tmp_path / "long")
