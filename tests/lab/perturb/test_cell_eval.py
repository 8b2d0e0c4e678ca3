"""Agreement with cell-eval (Arc Institute, github.com/ArcInstitute/cell-eval) where both say the same thing, and the
places where they differ on purpose. Numbers below are what its version 0.8.2 printed; `make bench` installs it, and
then the tests marked `peer` ask it again.
"""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from lab import perturb
from lab.perturb import scores
from lab.perturb.table import long

CONTROL = "delta-correlation (control)"
NAMES, GENES = ["G1", "G3", "G4", "X"], [f"G{i}" for i in range(12)]
THEIRS = {  # perturbation: of the cells below, controls B beside the truth and A beside the prediction
    "mse": {"G1": 0.056403, "G3": 0.047035, "G4": 0.029733, "X": 0.02048},
    "pearson_delta": {"G1": 0.15406, "G3": 0.056357, "G4": 0.445224, "X": 0.721893},
    "discrimination_score_l1": {"G1": 0.75, "G3": 0.75, "G4": 1.0, "X": 1.0},  # controls B beside both
}


def cells(of, n, k):
    """Log-normalised cells of counts that a formula makes: n of each name, different for each k."""
    i, j = np.arange(n * len(of))[:, None], np.arange(len(GENES))
    which = np.repeat(np.arange(len(of)), n)[:, None]
    counts = (3 + (i * i * (k + 2) + 5 * j * j + 7 * i * j * k) % (11 + 2 * k) + ((which + 1) * j * 3) % 7) * (
        1 + j % 4
    )
    x = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
    obs = pd.DataFrame({"target": np.repeat(of, n)}, [f"{k}-{name}" for name in range(len(x))])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))


def given():
    """Predicted and true cells, and controls A and B."""
    return cells(["G3", "G1", "G4", "X"], 6, 1), cells(NAMES, 6, 3), cells(["control"], 8, 4), cells(["control"], 8, 6)


def asked(predicted, truth, a, b):
    """What cell-eval says of them."""
    anndata_metrics = pytest.importorskip("cell_eval.metrics._anndata")
    pair = pytest.importorskip("cell_eval._types").PerturbationAnndataPair

    def both(control):
        return pair(ad.concat([truth, b]), ad.concat([predicted, control]), pert_col="target", control_pert="control")

    return {
        "mse": anndata_metrics.mse(both(a)),
        "pearson_delta": anndata_metrics.pearson_delta(both(a)),
        "discrimination_score_l1": anndata_metrics.discrimination_score(both(b), metric="l1"),
    }


def ours(predicted, truth, a, b):
    """The same of lab."""
    table = perturb.evaluate(predicted, truth, control=a, truth_control=b, by="target", splits=1)
    of = table[table["row"] == "model"].pivot(index="perturbation", columns="metric", values="value")
    p, t = (np.array([c.X[c.obs["target"] == name].mean(0) for name in NAMES], float) for c in (predicted, truth))
    targets = [[GENES.index(name)] if name in GENES else [] for name in NAMES]
    rank = scores.discrimination(p, t, targets, both=False)
    return {
        "mse": of["MSE"].to_dict(),
        "pearson_delta": of["delta-correlation (control)"].to_dict(),
        "discrimination_score_l1": dict(zip(NAMES, rank)),
    }


@pytest.mark.parametrize("metric", THEIRS)
def test_the_numbers_are_cell_evals(metric):
    assert ours(*given())[metric] == pytest.approx(THEIRS[metric], rel=1e-4)


@pytest.mark.peer
@pytest.mark.parametrize("metric", THEIRS)
def test_cell_eval_still_says_so(metric):
    assert asked(*given())[metric] == pytest.approx(THEIRS[metric], rel=1e-4)


MEANS = {"mse": (0.020, 0.025), "pearson_delta": (0.35, 0.2), "discrimination_score_l1": (0.5, 0.625)}  # model, base
OVERALL = {"mse": 0.2, "pearson_delta": 0.1875, "discrimination_score_l1": 0.0, "avg_score": 0.129167}


def test_the_overall_score_is_cell_evals():
    """Two perturbations a metric, about the means above; its score is of means over perturbations."""
    ours = dict(zip(MEANS, [perturb.METRICS[0], CONTROL, "discrimination"]))
    told = [
        (row, 0, {ours[metric]: means[k] + np.array([-0.01, 0.01]) for metric, means in MEANS.items()})
        for k, row in enumerate(("model", "perturbed-mean"))
    ]
    found = perturb.overall(long(told, ["A", "B"]))
    expected = {ours.get(metric, "overall"): value for metric, value in OVERALL.items()}
    assert found.to_dict() == pytest.approx(expected, rel=1e-4)


@pytest.mark.peer
def test_cell_eval_still_scores_so():
    score = pytest.importorskip("cell_eval").score_agg_metrics
    pl = pytest.importorskip("polars")
    model, base = (
        pl.DataFrame({"statistic": ["mean"]} | {metric: [means[k]] for metric, means in MEANS.items()}) for k in (0, 1)
    )
    found = dict(score(model, base).rows())
    assert found == pytest.approx(OVERALL, rel=1e-4)


def knocked_down(n=20, noise=0.05):
    """Perturbations of which each lowers its own gene and does nothing else, and one prediction for all."""
    random = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(60)]
    base = 2 + random.random(60)

    def made(of, tag):
        x = base + noise * random.normal(size=(len(of), 60))
        for row, name in zip(x, of):
            if name in genes:
                row[genes.index(name)] -= 1.5
        obs = pd.DataFrame({"target": of}, [f"{tag}{i}" for i in range(len(of))])
        return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))

    names = [f"G{i}" for i in range(n)]
    sides = (np.repeat(names, 5), "t"), (8 * ["control"], "a"), (8 * ["control"], "b")
    truth, a, b = (made(of, tag) for of, tag in sides)
    obs = pd.DataFrame({"target": names}, [f"m{i}" for i in range(n)])
    return ad.AnnData(np.tile(truth.X.mean(0), (n, 1)), obs=obs, var=truth.var), truth, a, b


def test_one_prediction_for_all_is_chance_where_every_target_gene_is_lowered():
    """cell-eval leaves out the gene of the right one alone: every candidate is then far by its own."""
    constant, truth, a, b = knocked_down()
    table = perturb.evaluate(constant, truth, control=a, truth_control=b, by="target", splits=1)
    assert perturb.at_a_glance(table, "mean").loc["discrimination", "model"] == pytest.approx(21 / 40, abs=0.05)


@pytest.mark.peer
def test_for_cell_eval_it_is_the_best_there_is():
    constant, truth, a, b = knocked_down()
    assert min(asked(constant, truth, a, b)["discrimination_score_l1"].values()) == 1


@pytest.mark.peer
def test_overlap_and_direction_of_given_gene_lists_are_cell_evals():
    """Its lists come from its own tests; of the same lists both say the same, where all predicted genes are called."""
    de = pytest.importorskip("cell_eval._types._de")
    metrics = pytest.importorskip("cell_eval.metrics._de")
    pl = pytest.importorskip("polars")
    random = np.random.default_rng(0)
    fold, true_fold = 2 ** random.normal(size=(2, 4, 12))
    changed = random.random((4, 12)) < 0.4

    def results(fold, fdr, name):
        long = {
            "target": np.repeat(NAMES, 12),
            "feature": np.tile(GENES, 4),
            "fold_change": fold.ravel(),
            "log2_fold_change": np.log2(fold).ravel(),
            "p_value": fdr.ravel(),
            "fdr": fdr.ravel(),
        }
        return de.DEResults(pl.DataFrame(long), name=name)

    table = de.DEComparison(results(true_fold, np.where(changed, 0.001, 0.9), "real"), results(fold, fold * 0, "pred"))
    shift, signs = np.log2(fold), np.sign(np.log2(true_fold)) * changed
    overlap = metrics.de_overlap_metric(table, k=None)
    assert [overlap[name] for name in NAMES] == pytest.approx(scores.overlap(shift, signs))
    direction = metrics.DEDirectionMatch()(table)
    assert [direction[name] for name in NAMES] == pytest.approx(scores.direction(shift, signs))
