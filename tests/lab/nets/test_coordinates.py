"""Coordinates of cells: a map that can be undone, whose scale is known, and that takes counts and nothing else."""

import numpy as np
import pytest
import torch
from scipy import sparse

from lab.data.prepare import log_normalise
from lab.errors import Refused
from lab.nets import Coordinates


@pytest.fixture(scope="module")
def counts():
    torch.manual_seed(0)
    shares = (torch.randn(300, 4) @ torch.randn(4, 40) / 2).exp()
    x = torch.poisson(shares)
    x[:, 0] += 1  # no cell is empty
    return x


@pytest.mark.parametrize("n", [40, 0])
def test_with_all_components_or_genes_a_cell_comes_back_as_it_was(counts, n):
    coordinates = Coordinates(40, n).fit(counts)
    log = torch.tensor(log_normalise(counts.numpy(), counts.sum(1)).toarray())
    torch.testing.assert_close(coordinates.log_expression(coordinates(counts)), log, rtol=1e-4, atol=1e-4)


def test_rounding_is_what_genes_draw_and_it_gives_the_counts_themselves(counts):
    coordinates = Coordinates(40, 0).fit(counts)
    torch.testing.assert_close(coordinates.draw(coordinates(counts), counts.sum(1, keepdim=True).log()), counts)


def test_components_are_uncorrelated_and_their_variances_have_the_mean_one(counts):
    z = Coordinates(40, 10).fit(counts)(counts)
    cov = z.T.cov()
    assert abs(cov.diag().mean() - 1) < 1e-4 and z.mean(0).abs().max() < 1e-4
    assert (cov - cov.diag().diag()).abs().max() < 1e-4 and (cov.diag().diff() < 0).all()


def test_distances_between_cells_are_those_of_log_expression_up_to_one_factor(counts):
    coordinates = Coordinates(40, 40).fit(counts)
    log = torch.tensor(log_normalise(counts.numpy(), counts.sum(1)).toarray())
    apart = [torch.pdist(x.double()) for x in (coordinates(counts) * coordinates.scale, log)]
    torch.testing.assert_close(*apart, rtol=1e-3, atol=1e-3)


def test_genes_have_unit_variance_and_one_that_never_varies_stays_at_nought(counts):
    same = torch.cat([counts, torch.zeros(300, 1)], 1)
    z = Coordinates(41, 0).fit(same)(same)
    torch.testing.assert_close(z[:, :40].std(0, correction=0), torch.ones(40))
    assert (z[:, 40] == 0).all()


def test_rates_sum_to_the_depth_and_none_is_negative(counts):
    coordinates = Coordinates(40, 5).fit(counts)
    rates = coordinates.rates(3 * torch.randn(50, 5), torch.linspace(3, 8, 50)[:, None])
    torch.testing.assert_close(rates.sum(1), torch.linspace(3, 8, 50).exp())
    assert (rates >= 0).all()


def test_cells_drawn_at_a_point_have_there_in_the_mean_the_log_expression_that_it_says():
    coordinates, y = Coordinates(40, 5), torch.linspace(0.2, 6, 40)
    coordinates.mean.copy_(y)
    coordinates.library.fill_(500.0)
    rates = coordinates._rate_of(y).expand(40000, -1)
    torch.manual_seed(0)
    drawn = (1e4 * torch.poisson(rates) / 500).log1p()
    error = drawn.std(0) / 200
    assert ((drawn.mean(0) - y).abs() < 4 * error + 1e-3).all()
    assert (y.expm1() * 500 / 1e4 < 0.9 * rates[0])[y < 3].all()  # the exponential is too low for rare genes


def test_counts_drawn_scatter_about_their_rates_as_the_training_cells_did():
    torch.manual_seed(0)
    rates = torch.linspace(2, 20, 30)
    theta = torch.where(torch.arange(30) < 15, 2.0, 1e6)
    x = torch.poisson(rates * torch.distributions.Gamma(theta, theta).sample((4000,)))
    coordinates = Coordinates(30, 1).fit(x)
    assert (coordinates.scatter[1:15] > 0.25).all() and (coordinates.scatter[15:] < 0.1).all()
    drawn = coordinates.draw(coordinates(x), x.sum(1, keepdim=True).log())
    assert (drawn == drawn.round()).all()
    assert ((drawn.var(0) / x.var(0)).log().abs() < 0.4)[1:].all()  # the first is the component itself


@pytest.mark.parametrize("n", [7, 0])
def test_minibatches_arrays_and_sparse_matrices_fit_the_same_map(counts, n):
    one = Coordinates(40, n).fit(counts)(counts)
    for other in (counts.numpy(), sparse.csr_matrix(counts.numpy()), counts.split(64), counts.split(7)):
        torch.testing.assert_close(Coordinates(40, n).fit(other)(counts), one, rtol=1e-4, atol=1e-4)


def test_the_map_is_saved_with_the_weights(counts):
    fitted, empty = Coordinates(40, 6).fit(counts), Coordinates(40, 6)
    assert not list(fitted.parameters())
    empty.load_state_dict(fitted.state_dict())
    assert torch.equal(empty(counts), fitted(counts))


@pytest.mark.parametrize("bad", [-1.0, 0.5, float("nan"), float("inf")])
def test_what_are_not_counts_is_refused(counts, bad):
    wrong = counts.clone()
    wrong[3, 4] = bad
    for refuse in (Coordinates(40, 5).fit, Coordinates(40, 5).fit(counts)):
        with pytest.raises(Refused, match="raw counts"):
            refuse(wrong)


def test_other_genes_too_few_cells_and_a_map_not_fitted_are_refused(counts):
    with pytest.raises(Refused, match="40 genes"):
        Coordinates(40, 5).fit(counts[:, :39])
    with pytest.raises(Refused, match="take fewer"):
        Coordinates(40, 5).fit(counts[:5])
    with pytest.raises(Refused, match="take fewer"):
        Coordinates(40, 5).fit(counts[:2].repeat(20, 1))
    with pytest.raises(Refused, match="read only once"):
        Coordinates(40, 5).fit(iter(counts.split(64)))
    with pytest.raises(Refused, match="fit"):
        Coordinates(40, 5)(counts)
    with pytest.raises(Refused, match="no gene"):
        coordinates = Coordinates(40, 5).fit(counts)
        coordinates.rates(torch.full((1, 5), torch.nan), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="components"):
        Coordinates(40, 41)
    assert np.isfinite(Coordinates(40, 5).fit(counts)(torch.zeros(1, 40))).all()
