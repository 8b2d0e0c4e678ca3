"""The predictor: what order means to it, what a perturbation reaches, its two laws, and the protocol that it keeps."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from screens import gene_names, profile, profiles, screen
from torch import nn

from lab import perturb, train, transcriptome
from lab.dist.negative_binomial import log_negative_binomial
from lab.errors import Refused

N = 24
WHERE = pd.DataFrame({"chromosome": "1", "start": 1e5 * np.random.default_rng(0).permutation(N)}, gene_names(N))
SCREEN = screen(names=["G1", "G2", "G5", "G1+G2"], genes=N, cells=20, controls=30, effect=0.5)
CELLS = ad.concat([SCREEN.a, SCREEN.cells])


def predictor(head=transcriptome.LogExpression, *, where=WHERE, order=None, cells=CELLS, seed=0, pathways=None, **how):
    """A small one that has something to say of every gene."""
    torch.manual_seed(seed)
    design, tokens = perturb.Design(cells), transcriptome.GeneTokens(where, pathways, width=16, order=order)
    fitted = head(cells.n_vars).fit(design, design.loader(cells))
    model = transcriptome.Predictor(design, tokens, fitted, backend="torch", d_state=4, **how)
    nn.init.normal_(model.out.weight)
    return model.eval()


def minibatch(model, cells=CELLS):
    return next(iter(model.design.loader(cells, size=200, shuffle=False)))


def test_columns_in_another_order_are_the_same_model():
    order = np.random.default_rng(1).permutation(N)
    one, other = predictor(), predictor(where=WHERE.iloc[order], cells=CELLS[:, order].copy())
    kept = one.state_dict()
    of_gene = {"tokens.identity", "tokens.places", "tokens.code", "tokens.known"} | {
        f"head.{n}" for n in ("start", "std", "common")
    }
    moved = {name: value[torch.tensor(order)] for name, value in kept.items() if name in of_gene}
    other.load_state_dict(kept | moved | {n: other.state_dict()[n] for n in ("tokens.order", "conditions.at")})
    for name in ("G5", "G1+G2", "control"):
        told = [m(m.conditions.row(name)) for m in (one, other)]
        torch.testing.assert_close(told[0][:, torch.tensor(order)], told[1])


def test_another_order_of_the_genes_is_another_model():
    one, other = predictor(), predictor(order=np.random.default_rng(1).permutation(N))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    told = [m(m.conditions.row("G5")) for m in (one, other)]
    assert (told[0] - told[1]).abs().max() > 0.1


def test_a_sequence_read_from_its_other_end_by_swapped_children_is_the_same_reading():
    model, h = predictor(n_layers=3), torch.randn(2, 9, 16)
    forwards = model.read(h)
    for layer in model.layers:
        layer.mamba_fwd, layer.mamba_rev = layer.mamba_rev, layer.mamba_fwd
    torch.testing.assert_close(model.read(h.flip(1)).flip(1), forwards)
    assert (model.read(h) - forwards).abs().max() > 0.01


def test_a_perturbation_reaches_every_gene_and_the_perturbed_one_by_its_mark():
    model = predictor()
    amounts = model.conditions.row("G5").requires_grad_()
    for gene in (0, 5, N - 1):
        assert torch.autograd.grad(model(amounts)[0, gene, 0], amounts)[0].abs().min() > 0
    np.testing.assert_array_equal(model.conditions.marked(amounts, N).detach()[0].nonzero()[:, 0], [5])
    both = model.conditions.marked(model.conditions.row("G1+G2"), N)
    assert both.sum() == 2 and both[0, [1, 2]].tolist() == [1, 1]
    blind = predictor(marks=False).conditions
    assert not blind.marked(blind.row("G5"), N).any()


def test_cells_of_one_perturbation_share_a_pass():
    model = predictor()
    b = minibatch(model)
    each = model(model.conditions.amounts(model.design, b))  # a pass a cell
    torch.testing.assert_close(transcriptome.loss(model, b)["loss"], model.head.loss(each, b)["loss"])
    assert len(each) == len(CELLS) > 100


def test_a_new_model_predicts_the_mean_of_training_perturbations_whose_r2_is_nought():
    uneven = CELLS[:-13].copy()  # each perturbation has one weight, however few its cells
    model = predictor(cells=uneven)
    nn.init.zeros_(model.out.weight)
    found, truth = transcriptome.profiles(model, model.design.loader(uneven, size=50))
    assert list(found.index) == list(truth.index) == model.design.labels
    by_hand = profiles(uneven).loc[model.design.labels]
    np.testing.assert_allclose(truth, by_hand, rtol=1e-5)
    np.testing.assert_allclose(found.loc["control"], by_hand.loc["control"], rtol=1e-5)
    mean, perturbed = by_hand.drop("control").mean().to_numpy(), model.design.labels[1:]
    np.testing.assert_allclose(found.loc[perturbed], np.tile(mean, (len(perturbed), 1)), rtol=1e-5)
    found, truth = found.loc[perturbed].to_numpy(), truth.loc[perturbed].to_numpy()
    assert perturb.r2(found, truth, found[0]) == 0  # by gene, about what it predicts
    assert perturb.r2(found, truth, found[0], flat=True) > 0.5
    np.testing.assert_allclose(model.predict(SCREEN.a, "G5").X.mean(0), mean, rtol=1e-5)
    b = minibatch(model, uneven)
    y = np.log1p(1e4 * b["x"] / b["x"].sum(1, keepdim=True)).double().numpy()
    expected = np.where((b["perturbation"] == 0)[:, None], by_hand.loc["control"], mean)
    std = y[b["perturbation"] == 0].std(0).clip(transcriptome.heads.FLOOR)
    error = np.square((y - expected) / std).sum(1).mean()
    assert transcriptome.loss(model, b)["loss"].item() == pytest.approx(error, rel=1e-5)


def test_a_perturbation_of_which_a_head_sees_no_cell_has_no_say():
    seen = CELLS[(CELLS.obs["perturbation"] != "G2").to_numpy()].copy()
    for head in (transcriptome.LogExpression, transcriptome.CountLaw):
        heads = [head(N).fit(design, design.loader(seen)) for design in map(perturb.Design, (CELLS, seen))]
        for one, other in zip(*(head.buffers() for head in heads)):
            torch.testing.assert_close(one, other)


def test_what_a_law_of_counts_expects_of_log_expression_is_what_its_cells_have():
    model = predictor(transcriptome.CountLaw)
    nn.init.normal_(model.out.weight, std=0.05)
    torch.manual_seed(0)
    found, _ = transcriptome.profiles(model, model.design.loader(CELLS))
    controls = ad.concat(40 * [SCREEN.a], index_unique="-")
    cells = model.predict(controls, "G5")
    apart = found.loc["G5"].to_numpy() - profile(cells)
    assert abs(apart.mean()) < 0.05 and abs(apart).max() < 0.25  # 400 cells beside 1,200


def test_the_loss_of_counts_is_the_negative_binomial_s_own():
    model = predictor(transcriptome.CountLaw)
    b, head = minibatch(model), model.head
    with torch.no_grad():
        head.log_theta.normal_()
    told = model(model.conditions.amounts(model.design, b)).detach()
    found = -transcriptome.loss(model, b)["loss"].item()
    share = (head.start + told[..., 0]).softmax(-1)
    mean, theta = (b["x"].sum(1, keepdim=True) * share).double(), (head.log_theta + told[..., 1]).exp().double()
    assert found == pytest.approx(log_negative_binomial(b["x"].double(), mean, theta).sum(1).mean().item(), rel=1e-5)
    law = stats.nbinom(theta.detach().numpy(), (theta / (theta + mean)).detach().numpy())
    assert found == pytest.approx(law.logpmf(b["x"].numpy()).sum(1).mean(), rel=1e-5)


def test_counts_begin_at_the_shares_of_controls_and_a_gene_that_they_lack_stays_possible():
    cells = CELLS.copy()
    counts, control = cells.layers["counts"].toarray(), (cells.obs["perturbation"] == "control").to_numpy()
    counts[control, 7] = 0
    cells.layers["counts"] = sparse.csr_matrix(counts)
    model = predictor(transcriptome.CountLaw, cells=cells)
    nn.init.zeros_(model.out.weight)
    b = minibatch(model, cells)
    assert np.isfinite(transcriptome.loss(model, b)["loss"].item())
    told = model(model.conditions.amounts(model.design, b)).detach()
    share = model.head.law(told, b["log_library"]).mean / b["x"].sum(1, keepdim=True)
    total = counts[control].sum(0).clip(0.5)
    np.testing.assert_allclose(share[control], np.tile(total / total.sum(), (control.sum(), 1)), rtol=1e-4)
    assert (
        (share[~control] - share[~control][0]).abs().max() < 1e-6 < (share[~control][0] - share[control][0]).abs().max()
    )


@pytest.mark.parametrize("head", [transcriptome.LogExpression, transcriptome.CountLaw])
def test_what_is_predicted_is_what_the_judge_takes(head):
    model, names = predictor(head), sorted(set(SCREEN.cells.obs["perturbation"]))
    nn.init.normal_(model.out.weight, std=0.02)
    found = perturb.predict(model, SCREEN.a, names)
    assert len(found) == len(names) * len(SCREEN.a) and list(found.var_names) == list(CELLS.var_names)
    scores = SCREEN.judged(found, splits=1)
    assert {"MSE", "discrimination"} <= set(scores["metric"]) and (scores["row"] == "model").any()
    again, other = (model.predict(SCREEN.a, "G5", seed=s) for s in (0, 1))
    values = lambda cells: cells.layers["counts"].toarray() if head.n_out == 2 else cells.X
    np.testing.assert_array_equal(values(again), values(model.predict(SCREEN.a, "G5")))
    assert (values(again) != values(other)).any() == (head.n_out == 2)
    if head.n_out == 2:
        depth = values(again).sum(1), SCREEN.a.layers["counts"].toarray().sum(1)
        assert stats.spearmanr(*depth)[0] > 0.5  # as deep as the controls were


def descriptors(names=("G1", "G2", "G5", "G9", "G10")):
    return pd.DataFrame(np.random.default_rng(0).normal(size=(len(names), 3)), list(names))


def test_with_descriptors_what_no_cell_carried_can_be_asked_for_and_alike_is_alike():
    table = descriptors()
    table.loc["G10"] = table.loc["G9"]
    model = predictor(descriptors=table, marks=False)
    told = {name: model(model.conditions.row(name)) for name in ("G9", "G10", "G1", "G9+G10")}
    torch.testing.assert_close(told["G9"], told["G10"], rtol=0, atol=0)
    assert (told["G9"] - told["G1"]).abs().max() > 0.01 and (told["G9"] - told["G9+G10"]).abs().max() > 0.01
    marked = predictor(descriptors=table)
    apart = marked(marked.conditions.row("G9")) - marked(marked.conditions.row("G10"))
    assert apart.abs().max() > 0.01
    assert model.predict(SCREEN.a, "G9+G1").n_obs == len(SCREEN.a)


def test_the_units_of_descriptors_do_not_matter_and_those_that_are_missing_are_said(capsys):
    table = descriptors()
    one, other = predictor(descriptors=table), predictor(descriptors=1000 * table + 5)
    amounts = one.conditions.row("G9")
    torch.testing.assert_close(one(amounts), other(amounts), rtol=1e-3, atol=1e-4)
    assert not capsys.readouterr().out
    table.loc["G2"] = np.nan
    model = predictor(descriptors=table)
    assert "1 of 3 perturbations have no descriptor (first: G2)" in capsys.readouterr().out
    with torch.no_grad():
        model.conditions.unknown.fill_(3)
    of = model.conditions(model.conditions.row("G2")) - model.conditions.base
    torch.testing.assert_close(of, torch.full((1, 16), 3.0))


def test_a_perturbation_that_is_no_measured_gene_is_said_where_others_are(capsys):
    s = screen(names=["G1", "drug"], genes=N, cells=20, controls=30)
    predictor(cells=ad.concat([s.a, s.cells]))
    assert "1 of 2 perturbations are no gene of the sequence (first: drug)" in capsys.readouterr().out
    s = screen(names=["drug", "other"], genes=N, cells=20, controls=30)
    predictor(cells=ad.concat([s.a, s.cells]))
    assert not capsys.readouterr().out


def test_a_target_that_no_cell_carried_is_told_to_fall_by_its_mark_and_only_by_it():
    s = screen(names=gene_names(20), genes=N, cells=15, controls=40)
    counts = s.cells.layers["counts"].toarray()
    counts[np.arange(len(counts)), [int(name[1:]) for name in s.cells.obs["perturbation"]]] = 0  # all of it
    counts[:, N - 1] += 1
    s.cells.layers["counts"] = counts
    cells = ad.concat([s.a, s.cells[~s.cells.obs["perturbation"].isin(["G3", "G8"])]])
    fallen = {}
    for marks in (True, False):
        model = predictor(cells=cells, descriptors=transcriptome.gene_descriptors(WHERE), marks=marks)
        nn.init.zeros_(model.out.weight)
        train.fit(model, partial(transcriptome.loss, model), model.design.loader(cells, size=64), n=60, lr=1e-2)
        told = {i: model(model.conditions.row(f"G{i}")).detach()[0, :, 0] * model.head.unit for i in (3, 8)}
        fallen[marks] = [(-of[i], of[torch.arange(N) != i].abs().max()) for i, of in told.items()]
    assert all(own > 1.5 and own > most for own, most in fallen[True])
    assert all(own < 1 for own, _ in fallen[False])


def test_in_training_a_part_is_not_told_as_often_as_asked_and_else_always():
    model, other = predictor(drop=1.0), predictor(drop=0.5, marks=False)
    row = lambda of: torch.cat([of.conditions.row(name) for name in ("G1", "G2", "G1+G2")])
    for _ in (model.train(), model.eval()):
        assert not (model.conditions(row(model)) - model.conditions.base).any()  # `unknown` begins at 0, and stays so
    amounts = row(other)
    torch.testing.assert_close(other(amounts), predictor(drop=0.0, marks=False)(amounts), rtol=0, atol=0)
    assert (other(amounts)[0] - other(amounts)[1]).abs().max() > 0.01
    torch.manual_seed(0)
    told = other.train().conditions(amounts[:1].expand(1000, -1)) - other.conditions.base
    assert told.any(1).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_gene_that_no_cell_carried_is_the_unknown_part_and_its_own_mark():
    model = predictor()
    with torch.no_grad():
        model.conditions.unknown.fill_(2)
    amounts = model.conditions.row("G9")
    torch.testing.assert_close(model.conditions(amounts), model.conditions.base[None] + 2)
    assert model.conditions.marked(amounts, N)[0].nonzero().tolist() == [[9]]


def test_full_totals_are_of_one_kind_in_training_and_prediction():
    cells = CELLS.copy()
    cells.obs["n_counts"] = 5000.0
    model = predictor(cells=cells)
    assert model.head.full and not predictor().head.full
    b = minibatch(model, cells)
    start = np.log1p(1e4 * b["x"][b["perturbation"] == 0] / 5000).mean(0)
    torch.testing.assert_close(model.head.start, start)
    with pytest.raises(Refused, match="training cells had obs"):
        model.predict(SCREEN.a, "G5")


def unfitted(head):
    design = perturb.Design(CELLS)
    return transcriptome.Predictor(design, transcriptome.GeneTokens(WHERE, width=16), head, backend="torch")


BAD = {
    "no layers": (lambda: predictor(n_layers=0), "one pass"),
    "tokens of other genes": (lambda: predictor(where=WHERE[:5]), "tokens are of 5 genes"),
    "a probability above 1": (lambda: predictor(drop=1.5), "from 0 to 1"),
    "a head that knows no cells": (
        lambda: unfitted(transcriptome.CountLaw(N)).predict(SCREEN.a, "G5"),
        "knows no cells yet",
    ),
    "a head without controls": (
        lambda: transcriptome.LogExpression(N).fit(*(lambda d: (d, d.loader(SCREEN.cells)))(perturb.Design(CELLS))),
        "hold no control",
    ),
    "a head that sees controls alone": (
        lambda: transcriptome.LogExpression(N).fit(*(lambda d: (d, d.loader(SCREEN.a)))(perturb.Design(CELLS))),
        "or nothing else",
    ),
    "a drug of which nothing is known": (lambda: predictor().predict(SCREEN.a, "drug"), "'drug' has a part"),
    "a gene that nobody marks": (lambda: predictor(marks=False).predict(SCREEN.a, "G9"), "'G9' has a part"),
    "a part without a descriptor": (
        lambda: predictor(descriptors=descriptors()).predict(SCREEN.a, "G1+drug"),
        "'G1+drug' has a part",
    ),
    "descriptors twice": (lambda: predictor(descriptors=descriptors(["G1", "G1"])), "one row a perturbation"),
    "no descriptors of these": (lambda: predictor(descriptors=descriptors(["G8"])), "no perturbation in training"),
    "controls with other genes": (lambda: predictor().predict(SCREEN.a[:, :5], "G5"), "take control"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    call, words = BAD[case]
    with pytest.raises(Refused) as said:
        call()
    assert words in str(said.value) and "\n" not in str(said.value)


def test_the_error_of_cells_is_that_of_their_mean_and_a_constant():
    model = predictor()
    b = minibatch(model)
    one = {name: v[b["perturbation"] == 2] for name, v in b.items()}
    y = transcriptome.pathways.log_counts(one)
    apart = []
    for _ in range(2):
        nn.init.normal_(model.out.weight, std=0.05)
        told = model.told(one).detach()
        apart.append(model.head.loss(told, one)["loss"] - model.head.error(told[:1], y.mean(0, keepdim=True)))
    assert apart[0].item() == pytest.approx(apart[1].item(), rel=1e-4) and apart[0] > 1
