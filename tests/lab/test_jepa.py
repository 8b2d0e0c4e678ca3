"""Joint embeddings against what is known of them: closed forms of the terms, canonical correlations, collapse."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.cross_decomposition import CCA
from torch import nn

from lab import jepa, train
from lab.errors import Refused
from lab.nets import ConditionEmbedding, mlp

ORIGIN = 1 - math.sqrt(2) + 1 / math.sqrt(3)  # of the Epps-Pulley statistic, per cell


def whitened(n, d):
    x = torch.randn(n, d, dtype=torch.float64)
    return torch.linalg.qr(x - x.mean(0))[0] * math.sqrt(n - 1)


def closed_form(x):
    """Epps and Pulley's double sum, for weights N(0, 1)."""
    n, apart = len(x), x[:, None] - x
    pairs = (-apart.square() / 2).exp().sum() / n
    return pairs - math.sqrt(2) * (-x.square() / 4).exp().sum() + n / math.sqrt(3)


def shared(n, scale=(10.0, 3.0), std=1.0, genes=5, seed=0):
    """Two views A z + e of the same z, and the canonical correlations l / (l + std^2)."""
    g = torch.Generator().manual_seed(seed)
    a = torch.linalg.qr(torch.randn(genes, 2, generator=g, dtype=torch.float64))[0] * torch.tensor(scale)
    z, e, f = (torch.randn(n, k, generator=g, dtype=torch.float64) for k in (2, genes, genes))
    exact = torch.tensor([s**2 / (s**2 + std**2) for s in scale])
    return z @ a.T + std * e, z @ a.T + std * f, exact


def test_terms_of_a_constant_batch_are_the_hinge_and_nothing_else():
    for value in (0.0, 3.7):
        z = torch.full((10, 4), value)
        assert jepa.variance_term(z).item() == pytest.approx(0.99, abs=1e-6)
        assert jepa.variance_term(z, least=2.0, floor=0.25).item() == pytest.approx(1.5, abs=1e-6)
        assert jepa.covariance_term(z).item() < 1e-20


def test_terms_of_a_whitened_batch_are_zero_and_of_half_of_it_known():
    z = whitened(200, 3)
    assert jepa.variance_term(z) == 0 and jepa.covariance_term(z) < 1e-20
    assert jepa.variance_term(z / 2).item() == pytest.approx(1 - math.sqrt(0.2501), abs=1e-9)
    assert jepa.variance_term(z * 3) == 0  # a hinge: more spread is no better


def test_covariance_counts_each_pair_twice_and_no_variance():
    z = (
        whitened(200, 3)
        @ torch.linalg.cholesky(torch.tensor([[1.0, 0.5, 0.0], [0.5, 4.0, 0.0], [0.0, 0.0, 9.0]]).double()).T
    )
    assert jepa.covariance_term(z).item() == pytest.approx(2 * 0.25 / 3, abs=1e-9)
    assert jepa.covariance_term(z[:, :1]) == 0


def test_seventeen_knots_are_the_double_sum_of_epps_and_pulley():
    torch.manual_seed(0)
    for x in (torch.randn(60, 1), 2 * torch.randn(200, 1) + 1, torch.rand(5, 1)):
        x = x.double()  # in one dimension every direction is the axis
        assert jepa.sigreg(x).item() == pytest.approx(closed_form(x[:, 0]).item(), abs=1e-5)


def test_the_statistic_is_the_integral_that_defines_it():
    x = np.array([-1.2, 0.1, 0.4, 2.0])
    off = lambda t: abs(np.exp(1j * t * x).mean() - np.exp(-(t**2) / 2)) ** 2
    exact = 4 * quad(lambda t: off(t) * np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), -12, 12)[0]
    assert jepa.sigreg(torch.tensor(x)[:, None]).item() == pytest.approx(exact, abs=1e-5)


def test_the_mean_over_gaussian_batches_does_not_depend_on_their_size():
    torch.manual_seed(0)
    for n in (4, 64):
        t = torch.tensor([jepa.sigreg(torch.randn(n, 3).double(), n_directions=4).item() for _ in range(2000)])
        assert abs(t.mean() - (1 - 1 / math.sqrt(3))) < 3 * t.std() / math.sqrt(2000)


def test_a_collapsed_batch_has_the_constant_per_cell_whatever_its_directions():
    assert jepa.sigreg(torch.zeros(50, 7).double()).item() == pytest.approx(50 * ORIGIN, abs=1e-4)


def test_with_their_limit_it_is_the_number_of_lejepas_own_code():
    """12.10966: lejepa.univariate.EppsPulley(t_max=3, n_points=17), commit of 2025-11, on these fifty points."""
    x = torch.linspace(-2, 3, 50)[:, None]
    assert jepa.sigreg(x, limit=3.0).item() * math.sqrt(2 * math.pi) == pytest.approx(12.10966, abs=1e-4)


def test_a_line_in_three_dimensions_is_seen_by_slices_although_each_coordinate_is_normal():
    torch.manual_seed(0)
    line = torch.randn(500, 1).expand(-1, 3)
    assert jepa.sigreg(line, n_directions=200) > 5 * jepa.sigreg(torch.randn(500, 3), n_directions=200) > 0


def test_effective_rank_counts_equal_directions_and_not_their_scale():
    z = whitened(200, 4)
    assert jepa.effective_rank(z) == pytest.approx(4, abs=1e-9)
    assert jepa.effective_rank(1e-4 * z + 5) == pytest.approx(4, abs=1e-6)
    assert jepa.effective_rank(z[:, :1] @ torch.ones(1, 4).double()) == pytest.approx(1, abs=1e-6)
    s = torch.tensor([3.0, 1.0, 0.0, 0.0]).double()  # entropy of (3/4, 1/4)
    assert jepa.effective_rank(z * s) == pytest.approx(4 / 3**0.75, abs=1e-6)
    assert jepa.effective_rank(torch.full((50, 4), 3.3)) == 0


def test_a_linear_joint_embedding_finds_the_canonical_correlations():
    """VICReg's terms on two linear maps, long enough: the subspace, and the correlations, are CCA's."""
    torch.manual_seed(0)
    x, y, exact = shared(20_000, scale=(3.0, 1.5))
    model = jepa.JEPA(nn.Linear(5, 2).double(), jepa.Predictor(nn.Identity()))
    train.fit(
        model,
        lambda b: jepa.loss(model, b, variance=1.0, covariance=1.0),
        [{"context": x, "target": y}],
        n=400,
        lr=train.cosine(0.03, 400),
    )
    with torch.no_grad():
        u, v = model.encoder(x).numpy(), model.encoder(y).numpy()
    inner = CCA(2).fit(u, v).transform(u, v)
    mine = [np.corrcoef(inner[0][:, k], inner[1][:, k])[0, 1] for k in range(2)]
    outer = CCA(2).fit(x.numpy(), y.numpy()).transform(x.numpy(), y.numpy())
    theirs = [np.corrcoef(outer[0][:, k], outer[1][:, k])[0, 1] for k in range(2)]
    assert np.allclose(mine, theirs, atol=0.005) and np.allclose(theirs, exact, atol=0.01)


def pairs(n=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g)
    a = torch.randn(2, 6, generator=g)
    return {name: z @ a + 0.3 * torch.randn(n, 6, generator=g) for name in ("context", "target")}


def spread(terms, decay=None, n=600):
    torch.manual_seed(0)
    model, b = jepa.JEPA(mlp(6, 32, 2), jepa.Predictor(mlp(2, 2)), decay=decay), pairs()
    for _ in train.steps(model, lambda b: jepa.loss(model, b, **terms), [b], n=n, lr=3e-3):
        model.update()
    with torch.no_grad():
        return model.encoder(b["context"]).std(0).mean().item()


def test_without_a_term_it_collapses_and_with_one_it_does_not():
    assert spread({}, n=2000) < 1e-2
    assert spread({"variance": 1.0, "covariance": 0.04}) > 0.8
    assert spread({"gaussian": 10.0}) > 0.8


def test_what_each_term_weighs_adds_up_and_only_asked_terms_are_computed():
    torch.manual_seed(0)
    model, b = jepa.JEPA(mlp(6, 8, 3), jepa.Predictor(mlp(3, 3))), pairs()
    plain = jepa.loss(model, b)
    assert set(plain) == {"loss", "prediction", "std"} and plain["loss"] == plain["prediction"]
    z, target = model.encoder(b["context"]), model.encoder(b["target"])
    torch.testing.assert_close(plain["prediction"], nn.functional.mse_loss(model.predictor(z), target))
    torch.testing.assert_close(plain["std"], z.std(0).mean())
    full = jepa.loss(model, b, variance=2.0, covariance=3.0)
    torch.testing.assert_close(full["variance"], (jepa.variance_term(z) + jepa.variance_term(target)) / 2)
    torch.testing.assert_close(full["covariance"], (jepa.covariance_term(z) + jepa.covariance_term(target)) / 2)
    torch.testing.assert_close(full["loss"], full["prediction"] + 2 * full["variance"] + 3 * full["covariance"])
    collapsed = {name: torch.zeros(50, 6) for name in b}
    for p in model.parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(jepa.loss(model, collapsed, gaussian=2.0)["loss"].item(), 2 * ORIGIN, atol=1e-5, rtol=0)


def test_the_target_encoder_moves_by_its_average_alone():
    torch.manual_seed(0)
    model, b = jepa.JEPA(mlp(6, 8, 2), jepa.Predictor(mlp(2, 2)), decay=0.9), pairs()
    before = [p.clone() for p in model.target_encoder.parameters()]
    jepa.loss(model, b)["loss"].backward()
    assert all(p.grad is None for p in model.target_encoder.parameters())
    for _ in train.steps(model, lambda b: jepa.loss(model, b), [b], n=3):
        assert all(torch.equal(p, q) for p, q in zip(before, model.target_encoder.parameters()))
    z, _, target = model(b["context"], b["context"])
    assert not torch.allclose(z, target), "targets are the copy's, which has stayed behind"
    model.update()
    for old, new, online in zip(before, model.target_encoder.parameters(), model.encoder.parameters()):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_half_of_the_way_takes_ln_2_over_one_less_the_decay():
    model = jepa.JEPA(nn.Linear(1, 1), jepa.Predictor(nn.Identity()), decay=0.99)
    nn.init.zeros_(model.target_encoder.weight), nn.init.ones_(model.encoder.weight)
    for _ in range(round(math.log(2) / 0.01)):
        model.update()
    assert model.target_encoder.weight.item() == pytest.approx(0.5, abs=0.005)


def test_one_encoder_learns_from_both_ends_and_has_no_target_to_move():
    model, b = jepa.JEPA(nn.Linear(6, 2), jepa.Predictor(nn.Identity())), pairs()
    model.update()
    assert model.target_encoder is None
    jepa.loss(model, b | {"context": torch.zeros(400, 6)})["loss"].backward()
    assert model.encoder.weight.grad.abs().sum() > 0  # through the target, since a context of zeros has none


def test_a_predictor_is_told_of_conditions():
    torch.manual_seed(0)
    embed = ConditionEmbedding({}, numbers={"action": 1})
    predictor = jepa.Predictor(nn.Linear(2 + embed.n, 2), embed)
    z = torch.randn(5, 2)
    still, moved = (predictor(z, {"action": torch.full((5,), a)}) for a in (0.0, 1.0))
    shift = moved - still
    assert shift.abs().sum() > 0 and torch.allclose(shift, shift[:1].expand(5, 2), atol=1e-6)
    with pytest.raises(ValueError, match="action"):
        jepa.JEPA(nn.Identity(), predictor)(z, z, {})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jepa.JEPA(nn.Identity(), nn.Identity(), decay=1.1), "share in"),
        (lambda: jepa.loss(None, {"x": torch.zeros(2, 2)}), "has x"),
        (lambda: jepa.loss(None, {"context": 0, "target": 0}, gaussian=-1.0), "0 or more"),
        (lambda: jepa.variance_term(torch.zeros(1, 3)), "two cells"),
        (lambda: jepa.covariance_term(torch.zeros(3)), "two cells"),
        (lambda: jepa.sigreg(torch.zeros(1, 3)), "two cells"),
        (lambda: jepa.sigreg(torch.zeros(3, 3), n_directions=0), "three knots"),
        (lambda: jepa.effective_rank(torch.zeros(1, 3)), "two cells"),
        (lambda: jepa.loss(jepa.JEPA(nn.Linear(6, 2), jepa.Predictor(nn.Linear(2, 3))), pairs()), "match its output"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(Refused, match=words):
        call()
