"""The bands of the result files: ten seeds of the reference reach the upper one, what is trivial or copied none.

Seed 0 is trained by the gate, every time; all ten weekly, where ALL_SEEDS is set: four minutes each homework. In
homework 4 the seeds are those of the cells that judge, and a judgement takes a second.
"""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lab import data, denoise, nets, sample, train, vae
from lab import path as paths
from lab.baselines import THETAS
from lab.checks import hw01, hw02, hw03, hw04
from lab.dist import negative_binomial

every_seed = pytest.mark.parametrize("seed", range(10))
weekly = pytest.mark.skipif("ALL_SEEDS" not in os.environ, reason="ALL_SEEDS is not set")


@pytest.fixture(scope="module")
def parts():
    return data.split(data.pbmc(), (0.7, 0.1, 0.2), stratify="cell_type")


def reference(name, function, seed, changes=()):
    """The reference's function, with another seed and what `changes` replaces."""
    text = Path(__file__).with_name(name).joinpath(f"{name}.md").read_text()
    cell = re.search(rf"^def {function}\(.*?(?=^```)", text, re.S | re.M)[0]
    for old, new in dict(changes).items():
        assert old in cell
        cell = cell.replace(old, new)
    names = {"np": np, "torch": torch, "partial": partial, "data": data, "train": train, "vae": vae}
    names |= {"denoise": denoise, "nets": nets, "sample": sample, "paths": paths}
    exec(cell.replace("manual_seed(0)", f"manual_seed({seed})"), names)
    return names[function]


@weekly
@every_seed
def test_a_seed_of_the_reference_draws_cells_within_the_band(parts, seed):
    cells = reference("hw01", "draw_cells", seed)(*parts[:2])
    assert 0.5 < hw01.distance(cells) < hw01.FULL and hw01.near_copies(cells) < 5


@weekly
@every_seed
def test_cells_drawn_from_the_codes_of_real_ones_are_no_near_copies(parts, seed):
    encoded = {"model.prior().sample((490,))": 'model.posterior(known["x"], known).sample()'}
    cells = reference("hw01", "draw_cells", seed, encoded)(*parts[:2])
    assert -0.2 < hw01.distance(cells) < 0.2 and hw01.near_copies(cells) < hw01.COPIES / 2


@weekly
@every_seed
def test_a_seed_of_the_reference_trains_a_model_within_the_band(parts, seed, tmp_path):
    save_file(reference("hw02", "trained", seed)(*parts[:2]).state_dict(), tmp_path / "model.safetensors")
    assert hw02.FULL < hw02.held_out_bound(tmp_path / "model.safetensors") < hw02.SEEN - 5


@weekly
@every_seed
def test_a_seed_of_the_reference_draws_cells_of_their_types_within_the_band(parts, seed, tmp_path):
    np.savez_compressed(tmp_path / "cells.npz", cells=reference("hw03", "draw_cells", seed)(parts[0]))
    distance, right, copies = hw03.judged(tmp_path / "cells.npz")
    assert distance < hw03.FULL[0] - 0.03 and hw03.FULL[1] + 0.03 < right < hw03.FULL[2] - 0.02 and copies < 15


@pytest.mark.parametrize("seed", range(3))
def test_cells_of_one_profile_are_outside_both_bands(parts, seed):
    torch.manual_seed(seed)
    known = data.minibatch(parts[0])
    share = (known["x"].sum(0) + 0.5) / (known["x"].sum(0) + 0.5).sum()
    mean = known["log_library"].exp() * share
    score = torch.stack([negative_binomial(mean, theta).log_prob(known["x"]).sum(0) for theta in THETAS])
    found = hw01.distance(negative_binomial(mean, THETAS[score.argmax(0)]).sample().numpy())
    assert hw01.HALF + 0.3 < found < 3.2


def test_a_model_that_was_not_trained_is_outside_both_bands(tmp_path):
    torch.manual_seed(0)
    save_file(vae.count_vae(765, 10).state_dict(), tmp_path / "model.safetensors")
    assert hw02.held_out_bound(tmp_path / "model.safetensors") < hw02.HALF - 15


@pytest.mark.parametrize("seed", range(3))
def test_cells_of_their_types_profiles_are_purer_than_cells_and_outside_both_bands(parts, seed, tmp_path):
    torch.manual_seed(seed)
    known, types = data.minibatch(parts[0]), parts[0].obs["cell_type"].to_numpy()
    drawn = torch.zeros_like(known["x"])
    for label in set(types):
        x, depth = known["x"][types == label], known["log_library"][types == label].exp()
        mean = depth * (x.sum(0) + 0.5) / (x.sum(0) + 0.5).sum()
        score = torch.stack([negative_binomial(mean, theta).log_prob(x).sum(0) for theta in THETAS])
        drawn[types == label] = negative_binomial(mean, THETAS[score.argmax(0)]).sample()
    np.savez_compressed(tmp_path / "cells.npz", cells=drawn.numpy())
    distance, right, _ = hw03.judged(tmp_path / "cells.npz")
    assert hw03.HALF[0] + 0.01 < distance < 0.15 and right > hw03.FULL[2] + 0.02
    np.savez_compressed(tmp_path / "cells.npz", cells=parts[0].layers["counts"].toarray())
    assert hw03.judged(tmp_path / "cells.npz")[2] == len(drawn)


def copies(parts):
    """Cells that were made of real ones, one by one."""
    rng, real = np.random.default_rng(0), parts[0].layers["counts"].toarray().astype(int)
    types, places = parts[0].obs["cell_type"].to_numpy(), np.arange(len(real))
    other = [rng.choice(np.flatnonzero((types == types[i]) & (places != i))) for i in places]
    half = lambda counts: rng.binomial(counts, 0.5)
    return {
        "as they are": real,
        "resampled": rng.poisson(real),
        "thinned": half(real),
        "with noise": real + rng.poisson(0.1, real.shape),
        "resampled nearer to the mean": rng.poisson(0.7 * real + 0.3 * real.sum(1)[:, None] * real.sum(0) / real.sum()),
        "mixed with another of the type": half(real) + half(real[other]),
    }


@pytest.mark.parametrize("test", ["test_better_than_one_profile", "test_as_near_as_the_reference"])
def test_cells_made_of_real_ones_are_near_enough_and_score_nothing(parts, test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, names = Path(__file__).with_name("hw01").joinpath("hw01.md").read_text(), {}
    text = re.search(rf"^def {test}\(.*?(?=^```)", source, re.S | re.M)[0]
    exec(text, names)
    for kind, cells in copies(parts).items():
        np.savez_compressed("hw01_cells.npz", cells=cells)
        assert hw01.distance(cells) < hw01.FULL / 1.5 and hw01.near_copies(cells) > 4 * hw01.COPIES, kind
        with pytest.raises(AssertionError) as raised:
            names[test]()
        assert text.splitlines()[raised.traceback[-1].lineno].endswith(f"< {hw01.COPIES}"), kind


@pytest.fixture(scope="module")
def profiles():
    """What may be made of homework 4's screen without a thought, beside the reference: (33, 300) each."""
    train, asked = hw04.screen()
    means = train.to_df().groupby(train.obs["perturbation"].to_numpy()).mean()
    control, parts = means.loc["control"].to_numpy(), [name.split("+") for name in asked]
    known = [name for name in means.index if "+" in name]
    added = np.array([(means.loc[of] - control).sum() for of in parts])
    shifts = np.array([(means.loc[name.split("+")] - control).sum() for name in known])
    near = np.square(added[:, None] - shifts[None]).sum(2).argmin(1)
    stronger = [max(of, key=lambda part: np.square(means.loc[part] - control).sum()) for of in parts]
    whole, _ = hw04._made()
    twins = whole.to_df().groupby(whole.obs["perturbation"].to_numpy()).mean()
    return {
        "reference": reference("hw04", "predict", 0)(train, asked),
        "times .8": control + 0.8 * added,
        "times a fitted number": control + fitted(shifts, means.loc[known].to_numpy() - control) * added,
        "additive": control + added,
        "no change": np.tile(control, (len(asked), 1)),
        "mean of all": np.tile(means.drop("control").mean(), (len(asked), 1)),
        "mean of doubles": np.tile(means.loc[known].mean(), (len(asked), 1)),
        "copies of the nearest double": means.loc[known].to_numpy()[near],
        "copies of any doubles": means.loc[(2 * known)[: len(asked)]].to_numpy(),
        "copies of the stronger single": means.loc[stronger].to_numpy(),
        "the same doubles under the public seed": twins.loc[asked].to_numpy(),
    }


def fitted(added, shifts):
    """The number by which sums of parts are nearest to their doubles."""
    return (added * shifts).sum() / (added**2).sum()


def way(profiles, seed, folder):
    np.savez_compressed(folder / "profiles.npz", profiles=profiles)
    return hw04.judged(folder / "profiles.npz", seed)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=weekly) for seed in range(1, 10))])
def test_doubles_that_were_learned_beat_the_additive_ones_and_what_was_copied_or_averaged_does_not(
    profiles, seed, tmp_path
):
    found = {kind: way(p, seed, tmp_path) for kind, p in profiles.items()}
    assert hw04.FULL + 0.02 < found.pop("reference") < hw04.SEEN - 0.1
    assert hw04.HALF + 0.02 < found.pop("times .8") < hw04.FULL - 0.05
    assert hw04.HALF + 0.02 < found.pop("times a fitted number") < hw04.FULL - 0.02
    assert max(found.values()) < hw04.HALF - 0.03, found
    assert abs(found["additive"]) < 1e-6 and found["mean of all"] < 0.05 and found["no change"] < -0.2


def test_at_the_seed_that_marks_the_full_band_parts_the_reference_from_a_fitted_number(profiles, tmp_path):
    """At 1 of 40 other seeds the reference misses it, at 2 the fitted number is in."""
    seeds = set(
        re.findall(r"hw04_profiles.npz', seed=(\d+)", Path(__file__).with_name("hw04").joinpath("hw04.md").read_text())
    )
    (seed,) = map(int, seeds)
    assert way(profiles["reference"], seed, tmp_path) > hw04.FULL + 0.1
    assert way(profiles["times a fitted number"], seed, tmp_path) < hw04.FULL - 0.02
    assert (
        max(way(profiles[kind], seed, tmp_path) for kind in profiles if kind.startswith(("cop", "mean", "no"))) < 0.13
    )


def test_profiles_of_the_cells_that_judge_and_what_are_no_profiles_score_nothing(profiles, tmp_path):
    judge = hw04.unseen(3)
    seen = judge.to_df().groupby(judge.obs["perturbation"].to_numpy()).mean().loc[hw04.screen()[1]].to_numpy()
    assert way(seen, 3, tmp_path) > hw04.SEEN + 0.2 and way(seen, 4, tmp_path) < hw04.HALF + 0.3
    for bad in (seen[:32], np.where(seen > 2, np.nan, seen), np.expm1(seen), 0 * seen):
        assert np.isnan(way(bad, 3, tmp_path))


def test_the_cells_to_learn_from_hold_no_truth_and_no_double_that_is_asked_for(tmp_path):
    train, asked = hw04.screen()
    assert len(asked) == 33 and not set(asked) & set(train.obs["perturbation"])
    assert {part for name in asked for part in name.split("+")} <= set(train.obs["perturbation"])
    assert not train.uns and not train.varm and not train.obsm and not len(train.var.columns)
    assert list(train.obs) == ["perturbation", "n_counts"]
    one, same, other = (hw04.unseen(seed).layers["counts"] for seed in (1, 1, 2))
    assert (one != same).nnz == 0 and (one != other).nnz > 100_000
